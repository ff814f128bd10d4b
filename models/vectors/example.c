/* A plain kernel: the dense INT8 product on VNNI-4 weights. Replace it by yours. */
#include "refimpl_vectors.h"
#include <string.h>

static void gemm_u8s8s32(const uint8_t *a, const int8_t *values, size_t N, size_t M, size_t K, int32_t *acc) {
    size_t steps = (K + 3) / 4;
    for (size_t n = 0; n < N; n++)
        for (size_t m = 0; m < M; m++) {
            const int8_t *w = values + (m / 64 * steps * 64 + m % 64) * 4;
            acc[n * M + m] = 0;
            for (size_t k = 0; k < K; k++) acc[n * M + m] += a[n * K + k] * w[k / 4 * 256 + k % 4];
        }
}

int refimpl_kernel(const refimpl_case *c, const char *output, void *out) {
    size_t N = c->dims['N'], M = c->dims['M'], K = c->dims['K'];
    if (strcmp(c->kernel, "gemm_u8s8s32") || strcmp(output, "acc")) return 1;
    gemm_u8s8s32(refimpl_get(c, "a"), refimpl_get(c, "values"), N, M, K, out);
    return 0;
}
