/* Plain scalar products of every family with integer vectors; MUTANT_name makes the wrong version of that name. */
#include "refimpl_vectors.h"
#include <math.h>
#include <string.h>

typedef struct {
    const uint8_t *a; const int8_t *w, *values; const int32_t *indptr, *indices; const uint64_t *masks; const int64_t *starts;
    size_t N, M, K; int saturating;
} product;

static int32_t clip(int64_t x, int64_t low, int64_t high) { return (int32_t)(x < low ? low : x > high ? high : x); }

static int32_t multiply(uint8_t x, int8_t w) {
#ifdef MUTANT_SIGNS_SWAPPED
    return (int8_t)x * (uint8_t)w;
#else
    return x * w;
#endif
}

static int32_t pair(int32_t p, int32_t q, int saturating) {
    (void)clip;
    if (!saturating) return p + q;
#if defined MUTANT_PAIRS_WRAP
    return (int16_t)(p + q);
#elif defined MUTANT_LOWEST_IS_MINUS_32767
    return clip(p + q, -32767, 32767);
#elif defined MUTANT_SATURATES_ABOVE_ONLY
    return clip(p + q, -1000000, 32767);
#else
    return clip(p + q, -32768, 32767);
#endif
}

/* What the channels k[0 ... 3] of token x, times w, add to an accumulator. */
static int32_t dot(const product *c, const uint8_t *x, const size_t *k, const int8_t *w) {
    int32_t p[4];
    int saturating = c->saturating;
#ifdef MUTANT_K_TAIL_DROPPED
    if (k[3] >= c->K) return 0;
#endif
#ifdef MUTANT_PAIRS_SATURATE
    saturating = 1;
#endif
#ifdef MUTANT_EXACT
    saturating = 0;
#endif
    for (int j = 0; j < 4; j++) p[j] = multiply(k[j] < c->K ? x[k[j]] : 0, w[j]);
#if defined MUTANT_PAIRS_02_13
    if (saturating) return pair(p[0], p[2], 1) + pair(p[1], p[3], 1);
#elif defined MUTANT_QUADS_SATURATE
    if (saturating) return clip(p[0] + p[1] + p[2] + p[3], -32768, 32767);
#endif
    return pair(p[0], p[1], saturating) + pair(p[2], p[3], saturating);
}

#ifdef MUTANT_ACC_IN_F32
typedef float accumulator;
#else
typedef int32_t accumulator;
#endif

static accumulator dense(const product *c, const uint8_t *x, size_t m) {
    size_t steps = (c->K + 3) / 4, tile = m / 64;
    accumulator acc = 0;
#ifdef MUTANT_FIRST_TILE_FOR_ALL
    tile = 0;
#endif
    for (size_t s = 0; s < steps; s++) {
        const int8_t *step = c->values + (tile * steps + s) * 256;
        size_t k[4] = {4 * s, 4 * s + 1, 4 * s + 2, 4 * s + 3};
#ifdef MUTANT_TILE_TRANSPOSED
        int8_t w[4] = {step[m % 64], step[64 + m % 64], step[128 + m % 64], step[192 + m % 64]};
#else
        const int8_t *w = step + m % 64 * 4;
#endif
        acc += dot(c, x, k, w);
    }
    return acc;
}

static accumulator blocks_4x1(const product *c, const uint8_t *x, size_t m) {
    size_t r = m / 4, i = m % 4;
    accumulator acc = 0;
#ifdef MUTANT_EMPTY_ROWS_NOT_ZEROED
    while (r > 0 && c->indptr[r] == c->indptr[r + 1]) r--;
#endif
    int32_t end = c->indptr[r + 1];
#ifdef MUTANT_LAST_GROUP_DROPPED
    end--;
#endif
#ifdef MUTANT_PAIRS_OF_THE_DENSE_PRODUCT
    for (size_t q = 0; q < c->K; q += 4) {
        size_t k[4] = {q, q + 1, q + 2, q + 3};
        int8_t w[4];
        for (int j = 0; j < 4; j++) w[j] = k[j] < c->K ? c->w[m * c->K + k[j]] : 0;
        acc += dot(c, x, k, w);
    }
    return acc;
#endif
    for (int32_t g = c->indptr[r]; g < end; g++) {
        size_t k[4];
        int8_t w[4];
        for (int j = 0; j < 4; j++) {
#ifdef MUTANT_COLUMNS_ARE_NEIGHBOURS
            k[j] = (size_t)c->indices[4 * g] + j;
#else
            k[j] = (size_t)c->indices[4 * g + j];
#endif
#ifdef MUTANT_GROUP_TRANSPOSED
            w[j] = c->values[16 * g + 4 * j + i];
#else
            w[j] = c->values[16 * g + 4 * i + j];
#endif
        }
        acc += dot(c, x, k, w);
    }
    return acc;
}

static accumulator blocks_32x32(const product *c, const uint8_t *x, size_t m) {
    size_t r = m / 32, i = m % 32;
    accumulator acc = 0;
#ifdef MUTANT_EMPTY_ROWS_NOT_ZEROED
    while (r > 0 && c->indptr[r] == c->indptr[r + 1]) r--;
#endif
    int32_t end = c->indptr[r + 1];
#ifdef MUTANT_LAST_BLOCK_DROPPED
    end--;
#endif
    for (int32_t b = c->indptr[r]; b < end; b++)
        for (size_t s = 0; s < 8; s++) {
            size_t k[4];
            int8_t w[4];
            for (size_t j = 0; j < 4; j++) {
#ifdef MUTANT_BLOCK_COLUMN_NOT_SCALED
                k[j] = (size_t)c->indices[b] + 4 * s + j;
#else
                k[j] = 32 * (size_t)c->indices[b] + 4 * s + j;
#endif
#ifdef MUTANT_BLOCK_TRANSPOSED
                w[j] = c->values[1024 * (size_t)b + i / 4 * 128 + (4 * s + j) * 4 + i % 4];
#else
                w[j] = c->values[1024 * (size_t)b + 128 * s + 4 * i + j];
#endif
            }
            acc += dot(c, x, k, w);
        }
    return acc;
}

static accumulator bits(const product *c, const uint8_t *x, size_t m) {
    size_t steps = (c->K + 3) / 4, mask = m / 64 * steps * 4;
    const int8_t *next = c->values + c->starts[m / 64];
    accumulator acc = 0;
#ifdef MUTANT_STARTS_IGNORED
    next = c->values;
#endif
    for (size_t s = 0; s < steps; s++) {
        int8_t w[256];
        for (int v = 0; v < 256; v++) {
            int bit = v % 64;
#ifdef MUTANT_HIGHEST_BIT_FIRST
            bit = 63 - bit;
#endif
            w[v] = c->masks[mask + 4 * s + v / 64] >> bit & 1 ? *next++ : 0;
        }
        size_t k[4] = {4 * s, 4 * s + 1, 4 * s + 2, 4 * s + 3};
        acc += dot(c, x, k, w + m % 64 * 4);
    }
    return acc;
}

static void run(const refimpl_case *c, product *p, int32_t *out) {
    accumulator (*one)(const product *, const uint8_t *, size_t) = dense;
    p->values = refimpl_get(c, "values");
    if (strstr(c->kernel, "bitmask")) {
        p->masks = refimpl_get(c, "masks"), p->starts = refimpl_get(c, "starts"), one = bits;
    } else if (strstr(c->kernel, "bsgemm")) {
        p->indptr = refimpl_get(c, "indptr"), p->indices = refimpl_get(c, "indices");
        one = strstr(c->kernel, "32x32") ? blocks_32x32 : blocks_4x1;
    }
    for (size_t n = 0; n < p->N; n++)
        for (size_t m = 0; m < p->M; m++) {
            out[n * p->M + m] = (int32_t)one(p, p->a + n * p->K, m);
#ifdef MUTANT_ACC_CLIPS_TO_S16
            out[n * p->M + m] = clip(out[n * p->M + m], -32768, 32767);
#endif
        }
}

static int32_t compensation(const product *p, size_t m) {
    int32_t sum = 0;
    for (size_t k = 0; k < p->K; k++) sum += p->w[m * p->K + k];
#if defined MUTANT_NO_COMPENSATION
    return 0 * sum;
#elif defined MUTANT_COMPENSATION_127
    return 127 * sum;
#elif defined MUTANT_COMPENSATION_ADDED
    return -128 * sum;
#else
    return 128 * sum;
#endif
}

static uint8_t to_code(float x) {
#if defined MUTANT_LOWEST_CODE_IS_MINUS_127
    float low = -127;
#else
    float low = -128;
#endif
#ifdef MUTANT_CODES_WRAP
    x = fmaxf(fminf(x, 1073741824.0f), -1073741824.0f), (void)low;
#else
    x = fmaxf(fminf(x, 127), low);
#endif
#if defined MUTANT_TIES_AWAY_FROM_ZERO
    return (uint8_t)((int32_t)roundf(x) + 128);
#elif defined MUTANT_CODES_TRUNCATE
    return (uint8_t)((int32_t)truncf(x) + 128);
#else
    return (uint8_t)((int32_t)nearbyintf(x) + 128);
#endif
}

static uint8_t buffer[1 << 16];
static int32_t sums[1 << 16];

int refimpl_kernel(const refimpl_case *c, const char *output, void *out) {
    product p = {.a = refimpl_get(c, "a"), .w = refimpl_get(c, "w"), .N = c->dims['N'], .M = c->dims['M'],
                 .K = c->dims['K'], .saturating = strstr(c->kernel, "pair_saturating") != NULL};
    if (!strncmp(c->kernel, "gemm_s8s8s32_shifted", 20)) {
        const int8_t *a = refimpl_get(c, "a");
        for (size_t i = 0; i < p.N * p.K; i++) {
            int x = a[i];
#ifdef MUTANT_LOWEST_IS_MINUS_127
            if (x < -127) x = -127;
#endif
            buffer[i] = (uint8_t)(x + 128);
        }
        p.a = buffer;
#ifdef MUTANT_OTHER_OPERAND_SHIFTED
        for (size_t n = 0; n < p.N; n++)
            for (size_t m = 0; m < p.M; m++) {
                int32_t acc = 0;
                for (size_t k = 0; k < p.K; k += 2) {
                    int32_t odd = k + 1 < p.K ? a[n * p.K + k + 1] * (p.w[m * p.K + k + 1] + 128) : 0;
                    acc += pair(a[n * p.K + k] * (p.w[m * p.K + k] + 128), odd, 1);
                    acc -= 128 * (a[n * p.K + k] + (k + 1 < p.K ? a[n * p.K + k + 1] : 0));
                }
                ((int32_t *)out)[n * p.M + m] = acc;
            }
        return 0;
#endif
        run(c, &p, out);
        for (size_t i = 0; i < p.N * p.M; i++) ((int32_t *)out)[i] -= compensation(&p, i % p.M);
        return 0;
    }
    if (!strcmp(output, "acc")) return run(c, &p, out), 0;
    const float *input = refimpl_get(c, "input_scale"), *scale = refimpl_get(c, "weight_scale");
    const float *result = refimpl_get(c, "output_scale");
    run(c, &p, sums);
    for (size_t i = 0; i < p.N * p.M; i++)
        ((uint8_t *)out)[i] = to_code((float)(sums[i] - compensation(&p, i % p.M)) * (*input * scale[i % p.M] / *result));
    return 0;
}
