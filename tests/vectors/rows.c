/* Plain f32 versions of the row-wise operators and of the bf16 product; MUTANT_name makes the wrong version of it. */
#include "refimpl_vectors.h"
#include <math.h>
#include <string.h>

static float from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static float to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return from_bf16((uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16));
}

static float finish(float y) {
#ifdef MUTANT_Y_IN_BF16
    return to_bf16(y);
#else
    return y;
#endif
}

static float power(float x) {
#ifdef MUTANT_EXP_IN_BASE_2
    return exp2f(x);
#else
    return expf(x);
#endif
}

static void softmax(const float *x, size_t d, float *y) {
    float most = x[0], sum = 0;
    for (size_t i = 1; i < d; i++) most = fmaxf(most, x[i]);
#ifdef MUTANT_TAIL_IS_ZEROS
    if (d % 16) most = fmaxf(most, 0), sum = (float)(16 - d % 16) * expf(-most);
#endif
#ifdef MUTANT_MAXIMUM_NOT_SUBTRACTED
    most = 0;
#endif
    for (size_t i = 0; i < d; i++) sum += y[i] = power(x[i] - most);
#ifdef MUTANT_ONE_MORE_IN_THE_SUM
    sum += 1;
#endif
    for (size_t i = 0; i < d; i++) y[i] = finish(y[i] / sum);
}

static void layernorm(const float *x, size_t d, const float *weight, const float *bias, float eps, float *y) {
    float mean = 0, squares = 0, n = (float)d;
    for (size_t i = 0; i < d; i++) mean += x[i];
    mean /= n;
    for (size_t i = 0; i < d; i++) squares += (x[i] - mean) * (x[i] - mean);
#ifdef MUTANT_UNBIASED_VARIANCE
    n -= 1;
#endif
#if defined MUTANT_EPS_OUTSIDE_THE_ROOT
    float root = sqrtf(squares / n) + eps;
#elif defined MUTANT_EPS_FORGOTTEN
    float root = sqrtf(squares / n) + 0 * eps;
#elif defined MUTANT_NO_SQUARE_ROOT
    float root = squares / n + eps;
#else
    float root = sqrtf(squares / n + eps);
#endif
    for (size_t i = 0; i < d; i++)
#ifdef MUTANT_WEIGHT_AND_BIAS_EXCHANGED
        y[i] = (x[i] - mean) / root * bias[i] + weight[i];
#else
        y[i] = (x[i] - mean) / root * weight[i] + bias[i];
#endif
}

static float gelu(float x) {
#if defined MUTANT_TANH_APPROXIMATION
    return x / 2 * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
#elif defined MUTANT_SIGMOID_APPROXIMATION
    return x / (1 + expf(-1.702f * x));
#elif defined MUTANT_ERF_OF_X
    return x / 2 * (1 + erff(x));
#else
    return finish(x / 2 * (1 + erff(x * 0.70710678f)));
#endif
}

static void gemm_bf16(const refimpl_case *c, const char *output, float *out) {
    const uint16_t *a = refimpl_get(c, "a"), *values = refimpl_get(c, "values");
    size_t N = c->dims['N'], M = c->dims['M'], K = c->dims['K'], steps = (K + 1) / 2;
#ifdef MUTANT_K_TAIL_DROPPED
    size_t end = K / 2;
#else
    size_t end = steps;
#endif
    for (size_t n = 0; n < N; n++)
        for (size_t m = 0; m < M; m++) {
            float acc = 0;
            for (size_t i = 0; i < end; i++)
                for (size_t j = 0; j < 2; j++) {
                    size_t s = i, upper = 1 - j;
#ifdef MUTANT_LOWER_CHANNEL_FIRST
                    upper = j;
#endif
#ifdef MUTANT_CHANNELS_DESCENDING
                    s = end - 1 - i;
#endif
                    size_t k = 2 * s + upper;
                    float w = from_bf16(values[((m / 64 * steps + s) * 64 + m % 64) * 2 + upper]);
                    acc = fmaf(k < K ? from_bf16(a[n * K + k]) : 0, w, acc);
                }
#ifdef MUTANT_ACC_IN_BF16
            if (!strcmp(output, "y")) acc = to_bf16(acc);
#endif
            out[n * M + m] = acc;
        }
    (void)output;
}

int refimpl_kernel(const refimpl_case *c, const char *output, void *out) {
    size_t n = c->dims['N'], d = c->dims['D'];
    float *y = out, sum[1024];
    if (!strcmp(c->kernel, "gemm_bf16")) return gemm_bf16(c, output, out), (void)to_bf16, 0;
    const float *x = refimpl_get(c, "x");
    for (size_t row = 0; row < n; row++, x += d, y += d)
        if (!strcmp(c->kernel, "softmax")) softmax(x, d, y);
        else if (!strcmp(c->kernel, "gelu"))
            for (size_t i = 0; i < d; i++) y[i] = gelu(x[i]);
        else if (strstr(c->kernel, "layernorm")) {
            const float *weight = refimpl_get(c, "weight"), *bias = refimpl_get(c, "bias"), *eps = refimpl_get(c, "eps");
            const float *residual = strstr(c->kernel, "add") ? (const float *)refimpl_get(c, "residual") + row * d : NULL;
            for (size_t i = 0; i < d; i++)
#if defined MUTANT_RESIDUAL_LEFT_OUT || defined MUTANT_RESIDUAL_AFTER_THE_NORM
                sum[i] = x[i];
#elif defined MUTANT_RESIDUAL_SUBTRACTED
                sum[i] = residual ? x[i] - residual[i] : x[i];
#else
                sum[i] = residual ? x[i] + residual[i] : x[i];
#endif
            layernorm(sum, d, weight, bias, *eps, y);
#ifdef MUTANT_RESIDUAL_AFTER_THE_NORM
            for (size_t i = 0; residual && i < d; i++) y[i] += residual[i];
#else
            (void)residual;
#endif
        } else return 1;
    return 0;
}
