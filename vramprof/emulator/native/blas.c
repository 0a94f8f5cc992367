/* cuBLAS and cuBLASLt: handles, modes and one plausible algorithm; the arithmetic itself is a generated stub. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

struct blas {
    int math_mode, pointer_mode;
    void *stream;
};

int cublasCreate_v2(struct blas **handle)
{
    *handle = new_handle(sizeof **handle);
    return OK;
}

DESTROYS(cublasDestroy_v2)

int cublasSetMathMode(struct blas *handle, int mode)
{
    handle->math_mode = mode;
    return OK;
}

int cublasGetMathMode(struct blas *handle, int *mode)
{
    *mode = handle->math_mode;
    return OK;
}

int cublasSetPointerMode_v2(struct blas *handle, int mode)
{
    handle->pointer_mode = mode;
    return OK;
}

int cublasGetPointerMode_v2(struct blas *handle, int *mode)
{
    *mode = handle->pointer_mode;
    return OK;
}

int cublasSetStream_v2(struct blas *handle, void *stream)
{
    handle->stream = stream;
    return OK;
}

int cublasGetStream_v2(struct blas *handle, void **stream)
{
    *stream = handle->stream;
    return OK;
}

int cublasGetVersion_v2(void *handle, int *version)
{
    (void)handle;
    *version = card()->cuda_version * 10;
    return OK;
}

const char *cublasGetStatusString(int status)
{
    return status ? "CUBLAS_STATUS_INTERNAL_ERROR" : "CUBLAS_STATUS_SUCCESS";
}

const char *cublasGetStatusName(int status)
{
    return cublasGetStatusString(status);
}

size_t cublasLtGetVersion(void)
{
    return (size_t)card()->cuda_version * 10;
}

CREATES(cublasLtCreate)
CREATES(cublasLtMatmulDescCreate)
CREATES(cublasLtMatmulPreferenceCreate)
CREATES(cublasLtMatrixLayoutCreate)
DESTROYS(cublasLtDestroy)
DESTROYS(cublasLtMatmulDescDestroy)
DESTROYS(cublasLtMatmulPreferenceDestroy)
DESTROYS(cublasLtMatrixLayoutDestroy)

struct lt_result {
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};
_Static_assert(sizeof(struct lt_result) == 96, "the ABI of cublasLt");

/* One algorithm without a workspace: without any, torch raises NOT_SUPPORTED. Until 2.14 torch has a workspace of a fixed
 * size ready, whatever is answered; later ones allocate what the algorithm asks for. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, struct lt_result *results, int *count)
{
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference;
    note_estimate("cublasLtMatmulAlgoGetHeuristic");
    *count = wanted > 0 ? 1 : 0;
    if (*count)
        results[0] = (struct lt_result){.algorithm = {1}, .waves = 1};
    return OK;
}

int cublasLtMatmulAlgoCheck(void *handle, void *operation, void *a, void *b, void *c, void *d, void *algorithm,
                            struct lt_result *result)
{
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)algorithm;
    *result = (struct lt_result){.algorithm = {1}, .waves = 1};
    return OK;
}

int cublasLtMatmulAlgoConfigGetAttribute(void *algorithm, int attribute, void *value, size_t bytes, size_t *written)
{
    (void)algorithm, (void)attribute;
    if (value)
        memset(value, 0, bytes);
    if (written)
        *written = bytes;
    return OK;
}

/* Batched QR and least squares report on the host, where torch asserts that all went well. */
#define BATCHED_QR(type)                                                                                               \
    int cublas##type##geqrfBatched(void *handle, int m, int n, void *a, int lda, void *tau, int *info)                 \
    {                                                                                                                  \
        (void)handle, (void)m, (void)n, (void)a, (void)lda, (void)tau;                                                 \
        *info = 0;                                                                                                     \
        return OK;                                                                                                     \
    }                                                                                                                  \
    int cublas##type##gelsBatched(void *handle, int transpose, int m, int n, int columns, void *a, int lda, void *c,   \
                                  int ldc, int *info)                                                                  \
    {                                                                                                                  \
        (void)handle, (void)transpose, (void)m, (void)n, (void)columns, (void)a, (void)lda, (void)c, (void)ldc;        \
        *info = 0;                                                                                                     \
        return OK;                                                                                                     \
    }
BATCHED_QR(S)
BATCHED_QR(D)
BATCHED_QR(C)
BATCHED_QR(Z)
