/* cuSOLVER, cuSPARSE, cuSPARSELt and cuFFT: handles, and the sizes of the buffers that torch allocates for them.
 *
 * True workspace sizes are known to the libraries alone; those here are of the right order,
 * and say so to note_estimate. */
#include "device.h"

#include <stdlib.h>

typedef intptr_t word; /* an argument that is passed in one integer register or stack slot, whatever its type */

CREATES(cusolverDnCreate)
CREATES(cusolverDnCreateParams)
CREATES(cusolverDnCreateGesvdjInfo)
CREATES(cusolverDnCreateSyevjInfo)
DESTROYS(cusolverDnDestroy)
DESTROYS(cusolverDnDestroyParams)
DESTROYS(cusolverDnDestroyGesvdjInfo)
DESTROYS(cusolverDnDestroySyevjInfo)

#define SIZE(function, parameters, expression)                                                                         \
    int function parameters                                                                                            \
    {                                                                                                                  \
        note_estimate(#function);                                                                                      \
        *size = (__typeof__(*size))(expression);                                                                       \
        return OK;                                                                                                     \
    }
#define SIZE_FOR_EACH_TYPE(function, parameters, expression)                                                           \
    SIZE(cusolverDnS##function##_bufferSize, parameters, expression)                                                   \
    SIZE(cusolverDnD##function##_bufferSize, parameters, expression)                                                   \
    SIZE(cusolverDnC##function##_bufferSize, parameters, expression)                                                   \
    SIZE(cusolverDnZ##function##_bufferSize, parameters, expression)
#define SIZE_FOR_REAL_AND_COMPLEX(real, complex, parameters, expression)                                               \
    SIZE(cusolverDnS##real##_bufferSize, parameters, expression)                                                       \
    SIZE(cusolverDnD##real##_bufferSize, parameters, expression)                                                       \
    SIZE(cusolverDnC##complex##_bufferSize, parameters, expression)                                                    \
    SIZE(cusolverDnZ##complex##_bufferSize, parameters, expression)

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"

SIZE_FOR_EACH_TYPE(getrf, (word handle, int m, int n, word a, int lda, int *size), m * 32 + n)
SIZE_FOR_EACH_TYPE(geqrf, (word handle, int m, int n, word a, int lda, int *size), n * 32 + m)
SIZE_FOR_EACH_TYPE(potrf, (word handle, word uplo, int n, word a, int lda, int *size), n * 32)
SIZE_FOR_EACH_TYPE(sytrf, (word handle, int n, word a, int lda, int *size), n * 32)
SIZE_FOR_EACH_TYPE(gesvd, (word handle, int m, int n, int *size), m * 32 + n * 32)
SIZE_FOR_EACH_TYPE(gesvdj,
                   (word handle, word job, word economic, int m, int n, word a, int lda, word s, word u, int ldu,
                    word v, int ldv, int *size, word params),
                   (m + n) * 32)
SIZE_FOR_EACH_TYPE(gesvdjBatched,
                   (word handle, word job, int m, int n, word a, int lda, word s, word u, int ldu, word v, int ldv,
                    int *size, word params, int batch),
                   (m + n) * batch)
SIZE_FOR_EACH_TYPE(gesvdaStridedBatched,
                   (word handle, word job, int rank, int m, int n, word a, int lda, long long stride_a, word s,
                    long long stride_s, word u, int ldu, long long stride_u, word v, int ldv, long long stride_v,
                    int *size, int batch),
                   (m + n) * batch)
SIZE_FOR_REAL_AND_COMPLEX(orgqr, ungqr,
                          (word handle, int m, int n, int k, word a, int lda, word tau, int *size), n * 32)
SIZE_FOR_REAL_AND_COMPLEX(ormqr, unmqr,
                          (word handle, word side, word transpose, int m, int n, int k, word a, int lda, word tau,
                           word c, int ldc, int *size),
                          (m + n) * 32)
SIZE_FOR_REAL_AND_COMPLEX(syevd, heevd,
                          (word handle, word job, word uplo, int n, word a, int lda, word w, int *size),
                          n * n + n * 32)
SIZE_FOR_REAL_AND_COMPLEX(syevj, heevj,
                          (word handle, word job, word uplo, int n, word a, int lda, word w, int *size, word params),
                          n * n + n * 32)
SIZE_FOR_REAL_AND_COMPLEX(syevjBatched, heevjBatched,
                          (word handle, word job, word uplo, int n, word a, int lda, word w, int *size, word params,
                           int batch),
                          n * 32)

/* The 64-bit interface wants bytes on the device and bytes on the host. */
#define TWO_SIZES(function, parameters, expression)                                                                    \
    int function parameters                                                                                            \
    {                                                                                                                  \
        note_estimate(#function);                                                                                      \
        *on_device = (size_t)(expression)*8;                                                                           \
        *on_host = 0;                                                                                                  \
        return OK;                                                                                                     \
    }

TWO_SIZES(cusolverDnXpotrf_bufferSize,
          (word handle, word params, word uplo, int64_t n, word type, word a, int64_t lda, word compute,
           size_t *on_device, size_t *on_host),
          n * 32)
TWO_SIZES(cusolverDnXgeqrf_bufferSize,
          (word handle, word params, int64_t m, int64_t n, word type, word a, int64_t lda, word tau_type, word tau,
           word compute, size_t *on_device, size_t *on_host),
          (m + n) * 32)
TWO_SIZES(cusolverDnXsyevd_bufferSize,
          (word handle, word params, word job, word uplo, int64_t n, word type, word a, int64_t lda, word w_type,
           word w, word compute, size_t *on_device, size_t *on_host),
          n * n + n * 32)
TWO_SIZES(cusolverDnXsyevBatched_bufferSize,
          (word handle, word params, word job, word uplo, int64_t n, word type, word a, int64_t lda, word w_type,
           word w, word compute, size_t *on_device, size_t *on_host, int64_t batch),
          n * n * batch)
TWO_SIZES(cusolverDnXgeev_bufferSize,
          (word handle, word params, word left, word right, int64_t n, word type, word a, int64_t lda, word w_type,
           word w, word vl_type, word vl, int64_t ldvl, word vr_type, word vr, int64_t ldvr, word compute,
           size_t *on_device, size_t *on_host),
          n * n + n * 32)
TWO_SIZES(cusolverDnXsytrs_bufferSize,
          (word handle, word uplo, int64_t n, int64_t columns, word type, word a, int64_t lda, word pivots,
           word b_type, word b, int64_t ldb, size_t *on_device, size_t *on_host),
          n * columns)

/* ---- cuSPARSE ---- */

struct matrix {
    int64_t rows, columns, nonzeros;
};

CREATES(cusparseCreate)
CREATES(cusparseCreateMatDescr)
CREATES(cusparseCreateDnMat)
CREATES(cusparseCreateDnVec)
CREATES(cusparseCreateBsrsm2Info)
CREATES(cusparseCreateBsrsv2Info)
CREATES(cusparseSpGEMM_createDescr)
CREATES(cusparseSpSM_createDescr)
CREATES(cusparseSpSV_createDescr)
DESTROYS(cusparseDestroy)
DESTROYS(cusparseDestroyMatDescr)
DESTROYS(cusparseDestroyDnMat)
DESTROYS(cusparseDestroyDnVec)
DESTROYS(cusparseDestroySpMat)
DESTROYS(cusparseDestroyBsrsm2Info)
DESTROYS(cusparseDestroyBsrsv2Info)
DESTROYS(cusparseSpGEMM_destroyDescr)
DESTROYS(cusparseSpSM_destroyDescr)
DESTROYS(cusparseSpSV_destroyDescr)

int cusparseCreateCsr(struct matrix **matrix, int64_t rows, int64_t columns, int64_t nonzeros)
{
    *matrix = new_handle(sizeof **matrix);
    **matrix = (struct matrix){rows, columns, nonzeros};
    return OK;
}

int cusparseCreateCoo(struct matrix **matrix, int64_t rows, int64_t columns, int64_t nonzeros)
{
    return cusparseCreateCsr(matrix, rows, columns, nonzeros);
}

int cusparseSpMatGetSize(struct matrix *matrix, int64_t *rows, int64_t *columns, int64_t *nonzeros)
{
    *rows = matrix->rows;
    *columns = matrix->columns;
    *nonzeros = matrix->nonzeros;
    return OK;
}

const char *cusparseGetErrorString(int status)
{
    return status ? "unknown error" : "success";
}

SIZE(cusparseSpMV_bufferSize,
     (word handle, word op, word alpha, word a, word x, word beta, word y, word type, word algorithm, size_t *size), 4096)
SIZE(cusparseSpMM_bufferSize,
     (word handle, word op_a, word op_b, word alpha, word a, word b, word beta, word c, word type, word algorithm,
      size_t *size),
     4096)
SIZE(cusparseSDDMM_bufferSize,
     (word handle, word op_a, word op_b, word alpha, word a, word b, word beta, word c, word type, word algorithm,
      size_t *size),
     4096)
SIZE(cusparseSpSV_bufferSize,
     (word handle, word op, word alpha, word a, word x, word y, word type, word algorithm, word plan, size_t *size), 4096)
SIZE(cusparseSpSM_bufferSize,
     (word handle, word op_a, word op_b, word alpha, word a, word b, word c, word type, word algorithm, word plan,
      size_t *size),
     4096)
SIZE(cusparseSpGEMM_workEstimation,
     (word handle, word op_a, word op_b, word alpha, word a, word b, word beta, word c, word type, word algorithm,
      word plan, size_t *size, word buffer),
     4096)
SIZE(cusparseSpGEMM_compute,
     (word handle, word op_a, word op_b, word alpha, word a, word b, word beta, word c, word type, word algorithm,
      word plan, size_t *size, word buffer),
     4096)
SIZE(cusparseXcoosort_bufferSizeExt,
     (word handle, int m, int n, int nonzeros, word rows, word columns, size_t *size), nonzeros * 8 + 4096)
SIZE(cusparseXcsrsort_bufferSizeExt,
     (word handle, int m, int n, int nonzeros, word rows, word columns, size_t *size), nonzeros * 8 + 4096)
SIZE(cusparseXcsrgeam2Nnz,
     (word handle, int m, int n, word da, int nonzeros_a, word rows_a, word columns_a, word db, int nonzeros_b,
      word rows_b, word columns_b, word dc, word rows_c, int *size, word buffer),
     nonzeros_a + nonzeros_b)

#define SPARSE_FOR_EACH_TYPE(function, parameters, expression)                                                         \
    SIZE(cusparseS##function, parameters, expression)                                                                  \
    SIZE(cusparseD##function, parameters, expression)                                                                  \
    SIZE(cusparseC##function, parameters, expression)                                                                  \
    SIZE(cusparseZ##function, parameters, expression)

SPARSE_FOR_EACH_TYPE(csrgeam2_bufferSizeExt,
                     (word handle, int m, int n, word alpha, word da, int nonzeros_a, word values_a, word rows_a,
                      word columns_a, word beta, word db, int nonzeros_b, word values_b, word rows_b, word columns_b,
                      word dc, word values_c, word rows_c, word columns_c, size_t *size),
                     4096)
SPARSE_FOR_EACH_TYPE(bsrsv2_bufferSize,
                     (word handle, word direction, word op, int rows, int blocks, word d, word values, word row_starts,
                      word columns, int block, word info, int *size),
                     4096)
SPARSE_FOR_EACH_TYPE(bsrsm2_bufferSize,
                     (word handle, word direction, word op_a, word op_x, int rows, int n, int blocks, word d,
                      word values, word row_starts, word columns, int block, word info, int *size),
                     4096)

#pragma GCC diagnostic pop

int cusparseXbsrsm2_zeroPivot(word handle, word info, int *position)
{
    (void)handle, (void)info;
    *position = -1;
    return OK;
}

int cusparseXbsrsv2_zeroPivot(word handle, word info, int *position)
{
    return cusparseXbsrsm2_zeroPivot(handle, info, position);
}

/* Structured sparsity is not emulated: 10 is cuSPARSE's NOT_SUPPORTED, and torch raises. */
int cusparseLtInit(void *handle)
{
    (void)handle;
    return 10;
}

/* ---- cuFFT ---- */

int cufftCreate(int *plan)
{
    *plan = 1;
    return OK;
}

/* The workspace of an out-of-place transform is of the size of its complex data. */
int cufftXtMakePlanMany(int plan, int rank, long long *sizes, long long *in_embed, long long in_stride,
                        long long in_distance, int in_type, long long *out_embed, long long out_stride,
                        long long out_distance, int out_type, long long batch, size_t *workspace_bytes, int type)
{
    note_estimate("cufftXtMakePlanMany");
    (void)plan, (void)in_embed, (void)in_stride, (void)in_distance, (void)in_type, (void)out_embed;
    (void)out_stride, (void)out_distance, (void)out_type;
    const int complex_double = 5, complex_half = 6;
    size_t bytes = type == complex_double ? 16 : type == complex_half ? 4 : 8;
    for (int i = 0; i < rank; i++)
        bytes *= (size_t)sizes[i];
    *workspace_bytes = bytes * (size_t)batch;
    return OK;
}
