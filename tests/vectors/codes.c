/* Plain versions of what makes codes, and of rescale; MUTANT_name makes the wrong version of that name. */
#include "refimpl_vectors.h"
#include <float.h>
#include <math.h>
#include <string.h>

static float nearest(float x) {
#if defined MUTANT_TIES_AWAY_FROM_ZERO
    return roundf(x);
#elif defined MUTANT_TIES_UP
    return floorf(x + 0.5f);
#elif defined MUTANT_CODES_TRUNCATE
    return truncf(x);
#else
    return nearbyintf(x);
#endif
}

static uint8_t to_code(float x, float low, int zero) {
#ifdef MUTANT_LOWEST_CODE_IS_MINUS_127
    if (zero) low = -127;
#endif
#ifdef MUTANT_ZERO_POINT_127
    zero = 127;
#endif
#ifdef MUTANT_ZERO_POINT_BEFORE_ROUNDING
    return (uint8_t)nearbyintf(fmaxf(fminf(x + 128, 255), 0));
#endif
#ifdef MUTANT_CODES_WRAP
    x = fmaxf(fminf(x, 1073741824.0f), -1073741824.0f), (void)low;
#else
    x = fmaxf(fminf(x, 127), low);
#endif
    return (uint8_t)((int32_t)nearest(x) + zero);
}

static void requantize(const refimpl_case *c, uint8_t *out) {
    const int32_t *acc = refimpl_get(c, "acc");
    const float *w = refimpl_get(c, "weight_scale");
    float a = *(const float *)refimpl_get(c, "input_scale"), y = *(const float *)refimpl_get(c, "output_scale");
    for (size_t i = 0, m = c->dims['M']; i < c->dims['N'] * m; i++) {
#if defined MUTANT_WEIGHT_BY_OUTPUT_FIRST
        float multiplier = a * (w[i % m] / y);
#elif defined MUTANT_INPUT_BY_OUTPUT_FIRST
        float multiplier = a / y * w[i % m];
#elif defined MUTANT_RECIPROCAL_OF_OUTPUT
        float multiplier = a * w[i % m] * (1 / y);
#else
        float multiplier = a * w[i % m] / y;
#endif
#ifdef MUTANT_ACC_IN_F64
        out[i] = to_code((float)((double)acc[i] * multiplier), -128, 128);
#else
        out[i] = to_code((float)acc[i] * multiplier, -128, 128);
#endif
    }
}

static void rescale(const refimpl_case *c, float *out) {
    const int32_t *acc = refimpl_get(c, "acc");
    const float *w = refimpl_get(c, "weight_scale"), *bias = refimpl_get(c, "bias");
    float a = *(const float *)refimpl_get(c, "input_scale");
    for (size_t i = 0, m = c->dims['M']; i < c->dims['N'] * m; i++) {
        float x = (float)acc[i], s = w[i % m], b = bias[i % m];
#if defined MUTANT_FUSED
        out[i] = fmaf(x, a * s, b);
#elif defined MUTANT_INPUT_SCALE_FIRST
        out[i] = x * a * s + b;
#elif defined MUTANT_WEIGHT_SCALE_FIRST
        out[i] = x * s * a + b;
#elif defined MUTANT_BIAS_FORGOTTEN
        out[i] = x * (a * s) + 0 * b;
#elif defined MUTANT_BIAS_IN_INTEGERS
        out[i] = (x + truncf(b / (a * s))) * (a * s);
#else
        out[i] = x * (a * s) + b;
#endif
    }
}

static void quantize(const refimpl_case *c, uint8_t *out) {
    const float *x = refimpl_get(c, "x"), *scale = refimpl_get(c, "scale");
    for (size_t i = 0; i < c->dims['N'] * c->dims['D']; i++)
#ifdef MUTANT_RECIPROCAL_FOR_DIVISION
        out[i] = to_code(x[i] * (1 / *scale), -128, 128);
#else
        out[i] = to_code(x[i] / *scale, -128, 128);
#endif
}

static void quantize_weight(const refimpl_case *c, const char *output, void *out) {
    const float *w = refimpl_get(c, "w");
    size_t M = c->dims['M'], K = c->dims['K'];
    for (size_t m = 0; m < M; m++) {
        float most = 0, limit = 127;
#ifdef MUTANT_FULL_RANGE_128
        limit = 128;
#endif
#ifdef MUTANT_ONE_SCALE_FOR_ALL
        for (size_t i = 0; i < M * K; i++) most = fmaxf(most, fabsf(w[i]));
#else
        for (size_t k = 0; k < K; k++) most = fmaxf(most, fabsf(w[m * K + k]));
#endif
        float scale = most / limit;
#ifdef MUTANT_ONLY_ZERO_BECOMES_1
        if (scale == 0) scale = 1;
#else
        if (scale < FLT_MIN) scale = 1;
#endif
        if (!strcmp(output, "scale")) ((float *)out)[m] = scale;
        else for (size_t k = 0; k < K; k++)
#ifdef MUTANT_RECIPROCAL_FOR_DIVISION
            ((uint8_t *)out)[m * K + k] = to_code(w[m * K + k] * (1 / scale), -limit, 0);
#else
            ((uint8_t *)out)[m * K + k] = to_code(w[m * K + k] / scale, -limit, 0);
#endif
    }
}

static void quantize_probs(const refimpl_case *c, uint8_t *out) {
    const float *x = refimpl_get(c, "x");
    for (size_t i = 0; i < c->dims['N'] * c->dims['D']; i++)
#ifdef MUTANT_TIMES_256
        out[i] = (uint8_t)fminf(nearest(x[i] * 256), 255);
#else
        out[i] = (uint8_t)nearest(x[i] * 255);
#endif
}

static void look_up(const refimpl_case *c, uint8_t *out) {
    const uint8_t *codes = refimpl_get(c, "codes"), *table = refimpl_get(c, "table");
    for (size_t i = 0; i < c->dims['N'] * c->dims['D']; i++)
#if defined MUTANT_CODES_READ_AS_SIGNED
        out[i] = table[(int8_t)codes[i] + 128];
#elif defined MUTANT_ONLY_128_ENTRIES
        out[i] = table[codes[i] & 127];
#else
        out[i] = table[codes[i]];
#endif
}

int refimpl_kernel(const refimpl_case *c, const char *output, void *out) {
    if (!strcmp(c->kernel, "requantize")) requantize(c, out);
    else if (!strcmp(c->kernel, "rescale")) rescale(c, out);
    else if (!strcmp(c->kernel, "quantize_rows")) quantize(c, out);
    else if (!strcmp(c->kernel, "quantize_weight")) quantize_weight(c, output, out);
    else if (!strcmp(c->kernel, "quantize_probs")) quantize_probs(c, out);
    else if (!strcmp(c->kernel, "gelu_u8_table")) look_up(c, out);
    else return 1;
    return 0;
}
