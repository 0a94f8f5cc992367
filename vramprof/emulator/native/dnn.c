/* cuDNN apart from its graph interface: handles, descriptors, batch norm, recurrent nets, CTC.
 *
 * Computing calls are generated stubs; what is written here is what torch reads back or allocates. */
#include "device.h"
#include "dnn.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* torch links against the real library, so it is in the process whenever cuDNN is asked for anything. */
void *real_cudnn(const char *function)
{
    static void *library;
    if (!library)
        library = dlopen("libcudnn.so.9", RTLD_LAZY | RTLD_NOLOAD);
    return library ? dlsym(library, function) : NULL;
}

size_t cudnnGetVersion(void)
{
    size_t (*real)(void) = (size_t(*)(void))real_cudnn("cudnnGetVersion");
    return real ? real() : 90100;
}

size_t cudnnGetCudartVersion(void)
{
    return (size_t)card()->cuda_version;
}

int cudnnGetProperty(int which, int *value)
{
    const size_t version = cudnnGetVersion();
    const size_t parts[] = {version / 10000, version / 100 % 100, version % 100};
    *value = which >= 0 && which < 3 ? (int)parts[which] : 0;
    return OK;
}

const char *cudnnGetErrorString(int status)
{
    return status ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_SUCCESS";
}

void cudnnGetLastErrorString(char *message, size_t bytes)
{
    if (bytes)
        *message = 0;
}

struct dnn {
    void *stream;
};

int cudnnCreate(struct dnn **handle)
{
    *handle = new_handle(sizeof **handle);
    return OK;
}

DESTROYS(cudnnDestroy)

int cudnnSetStream(struct dnn *handle, void *stream)
{
    handle->stream = stream;
    return OK;
}

int cudnnGetStream(struct dnn *handle, void **stream)
{
    *stream = handle->stream;
    return OK;
}

/* ---- descriptors ---- */

struct tensor {
    int type, dimensions, size[8], stride[8];
};

int cudnnCreateTensorDescriptor(struct tensor **tensor)
{
    *tensor = new_handle(sizeof **tensor);
    return OK;
}

int cudnnCreateFilterDescriptor(struct tensor **filter)
{
    return cudnnCreateTensorDescriptor(filter);
}

int cudnnSetTensorNdDescriptor(struct tensor *tensor, int type, int dimensions, const int *sizes, const int *strides)
{
    tensor->type = type;
    tensor->dimensions = dimensions < 8 ? dimensions : 8;
    for (int i = 0; i < tensor->dimensions; i++) {
        tensor->size[i] = sizes[i];
        tensor->stride[i] = strides ? strides[i] : 1;
    }
    return OK;
}

int cudnnGetTensorNdDescriptor(struct tensor *tensor, int wanted, int *type, int *dimensions, int *sizes, int *strides)
{
    *type = tensor->type;
    *dimensions = tensor->dimensions;
    for (int i = 0; i < tensor->dimensions && i < wanted; i++) {
        sizes[i] = tensor->size[i];
        strides[i] = tensor->stride[i];
    }
    return OK;
}

int cudnnSetFilterNdDescriptor(struct tensor *filter, int type, int format, int dimensions, const int *sizes)
{
    (void)format;
    return cudnnSetTensorNdDescriptor(filter, type, dimensions, sizes, NULL);
}

int cudnnGetFilterNdDescriptor(struct tensor *filter, int wanted, int *type, int *format, int *dimensions, int *sizes)
{
    int strides[8];
    *format = 0;
    return cudnnGetTensorNdDescriptor(filter, wanted < 8 ? wanted : 8, type, dimensions, sizes, strides);
}

CREATES(cudnnCreateActivationDescriptor)
CREATES(cudnnCreateCTCLossDescriptor)
CREATES(cudnnCreateConvolutionDescriptor)
CREATES(cudnnCreateDropoutDescriptor)
CREATES(cudnnCreatePoolingDescriptor)
CREATES(cudnnCreateSpatialTransformerDescriptor)
DESTROYS(cudnnDestroyTensorDescriptor)
DESTROYS(cudnnDestroyFilterDescriptor)
DESTROYS(cudnnDestroyActivationDescriptor)
DESTROYS(cudnnDestroyCTCLossDescriptor)
DESTROYS(cudnnDestroyConvolutionDescriptor)
DESTROYS(cudnnDestroyDropoutDescriptor)
DESTROYS(cudnnDestroyPoolingDescriptor)
DESTROYS(cudnnDestroySpatialTransformerDescriptor)
DESTROYS(cudnnDestroyRNNDescriptor)
DESTROYS(cudnnDestroyRNNDataDescriptor)

/* ---- sizes of buffers ---- */

int cudnnDropoutGetStatesSize(void *handle, size_t *bytes)
{
    (void)handle;
    *bytes = (size_t)card()->multiprocessors * (size_t)card()->threads_per_multiprocessor * 24; /* one generator each */
    return OK;
}

/* Batch norm over NCHW needs neither workspace nor reserve. */
int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void *handle, int mode, int ops, void *x, void *z, void *y,
                                                             void *scale, void *activation, size_t *bytes)
{
    (void)handle, (void)mode, (void)ops, (void)x, (void)z, (void)y, (void)scale, (void)activation;
    *bytes = 0;
    return OK;
}

int cudnnGetBatchNormalizationBackwardExWorkspaceSize(void *handle, int mode, int ops, void *x, void *y, void *dy,
                                                      void *dz, void *dx, void *scale, void *activation, size_t *bytes)
{
    (void)handle, (void)mode, (void)ops, (void)x, (void)y, (void)dy, (void)dz, (void)dx, (void)scale, (void)activation;
    *bytes = 0;
    return OK;
}

int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *handle, int mode, int ops, void *activation, void *x,
                                                         size_t *bytes)
{
    (void)handle, (void)mode, (void)ops, (void)activation, (void)x;
    *bytes = 0;
    return OK;
}

/* Kept apart from the labels, which are on the host for one call and on the device for the other. */
static size_t ctc_bytes(const struct tensor *probabilities)
{
    note_estimate("cudnnGetCTCLossWorkspaceSize");
    return (size_t)probabilities->size[0] * (size_t)probabilities->size[1] * 2 * 1024;
}

int cudnnGetCTCLossWorkspaceSize(void *handle, struct tensor *probabilities, void *gradients, void *labels,
                                 void *label_lengths, void *input_lengths, int algorithm, void *ctc, size_t *bytes)
{
    (void)handle, (void)gradients, (void)labels, (void)label_lengths, (void)input_lengths, (void)algorithm, (void)ctc;
    *bytes = ctc_bytes(probabilities);
    return OK;
}

int cudnnGetCTCLossWorkspaceSize_v8(void *handle, int algorithm, void *ctc, struct tensor *probabilities,
                                    void *gradients, size_t *bytes)
{
    (void)handle, (void)algorithm, (void)ctc, (void)gradients;
    *bytes = ctc_bytes(probabilities);
    return OK;
}

/* ---- the convolutions of cuDNN 7, which torch takes when its graph interface is turned off ---- */

struct algorithm {
    int algorithm, status;
    float milliseconds;
    size_t bytes;
    int determinism, math_type, reserved[3];
};

static int one_algorithm(int wanted, int *count, struct algorithm *found)
{
    note_estimate("cudnnGetConvolutionWorkspaceSize");
    *count = wanted > 0;
    if (*count)
        *found = (struct algorithm){.algorithm = 1, .determinism = 1};
    return OK;
}

#define CONVOLUTION_7(which)                                                                                           \
    int cudnnGetConvolution##which##Algorithm_v7(void *handle, void *a, void *b, void *c, void *d, int wanted,         \
                                                 int *count, struct algorithm *found)                                  \
    {                                                                                                                  \
        (void)handle, (void)a, (void)b, (void)c, (void)d;                                                              \
        return one_algorithm(wanted, count, found);                                                                    \
    }                                                                                                                  \
    int cudnnFindConvolution##which##AlgorithmEx(void *handle, void *a, void *a_data, void *b, void *b_data, void *c,  \
                                                 void *d, void *d_data, int wanted, int *count,                        \
                                                 struct algorithm *found)                                              \
    {                                                                                                                  \
        (void)handle, (void)a, (void)a_data, (void)b, (void)b_data, (void)c, (void)d, (void)d_data;                    \
        return one_algorithm(wanted, count, found);                                                                    \
    }                                                                                                                  \
    int cudnnGetConvolution##which##WorkspaceSize(void *handle, void *a, void *b, void *c, void *d, int algorithm,     \
                                                  size_t *bytes)                                                       \
    {                                                                                                                  \
        (void)handle, (void)a, (void)b, (void)c, (void)d, (void)algorithm;                                             \
        *bytes = 0;                                                                                                    \
        return OK;                                                                                                     \
    }

CONVOLUTION_7(Forward)
CONVOLUTION_7(BackwardData)
CONVOLUTION_7(BackwardFilter)

/* ---- recurrent nets ---- */

struct recurrent {
    int cell, bias, bidirectional, type, input, hidden, projection, layers;
};

struct sequence {
    int steps, batch;
};

int cudnnCreateRNNDescriptor(struct recurrent **net)
{
    *net = new_handle(sizeof **net);
    return OK;
}

int cudnnCreateRNNDataDescriptor(struct sequence **data)
{
    *data = new_handle(sizeof **data);
    return OK;
}

int cudnnSetRNNDataDescriptor(struct sequence *data, int type, int layout, int steps, int batch)
{
    (void)type, (void)layout;
    data->steps = steps;
    data->batch = batch;
    return OK;
}

int cudnnSetRNNDescriptor_v8(struct recurrent *net, int algorithm, int cell, int bias, int direction, int input_mode,
                             int type, int precision, int math, int input, int hidden, int projection, int layers)
{
    (void)algorithm, (void)input_mode, (void)precision, (void)math;
    *net = (struct recurrent){cell, bias, direction, type, input, hidden, projection, layers};
    return OK;
}

static size_t element_bytes(int type)
{
    return type == 0 ? 4 : type == 1 ? 8 : 2;
}

/* Linear maps of the input in one cell (ReLU and tanh have 1, LSTM 4, GRU 3); there are as many of the state. */
static int gates(const struct recurrent *net)
{
    return net->cell == 2 ? 4 : net->cell == 3 ? 3 : 1;
}

static int state_width(const struct recurrent *net)
{
    return net->projection > 0 ? net->projection : net->hidden;
}

static bool is_projected(const struct recurrent *net)
{
    return net->projection > 0 && net->projection != net->hidden;
}

/* Rows and columns of one matrix. A pseudo layer is one layer in one direction. */
static void matrix_shape(const struct recurrent *net, int pseudo_layer, int which, int *rows, int *columns)
{
    int directions = net->bidirectional ? 2 : 1;
    bool projection = which >= 2 * gates(net);
    bool first = pseudo_layer < directions;
    *rows = projection ? net->projection : net->hidden;
    *columns = projection                ? net->hidden
               : which >= gates(net)     ? state_width(net)
               : first                   ? net->input
                                         : state_width(net) * directions;
}

/* All matrices of all pseudo layers come first, then all biases: the offset in elements of one of them. */
static size_t matrix_offset(const struct recurrent *net, int pseudo_layer, int which)
{
    size_t offset = 0;
    int per_layer = 2 * gates(net) + is_projected(net);
    for (int layer = 0; layer <= pseudo_layer; layer++)
        for (int i = 0; i < (layer < pseudo_layer ? per_layer : which); i++) {
            int rows, columns;
            matrix_shape(net, layer, i, &rows, &columns);
            offset += (size_t)rows * (size_t)columns;
        }
    return offset;
}

static int pseudo_layers(const struct recurrent *net)
{
    return net->layers * (net->bidirectional ? 2 : 1);
}

int cudnnGetRNNWeightSpaceSize(void *handle, struct recurrent *net, size_t *bytes)
{
    (void)handle;
    size_t elements = matrix_offset(net, pseudo_layers(net), 0);
    size_t biases = net->bias == 0 ? 0 : net->bias == 2 ? 2 : 1;
    elements += (size_t)pseudo_layers(net) * (size_t)(gates(net) * net->hidden) * biases;
    *bytes = elements * element_bytes(net->type);
    return OK;
}

/* Either the matrix or the bias may be left out by passing NULL for it. A shape of no dimensions says: not there. */
int cudnnGetRNNWeightParams(void *handle, struct recurrent *net, int pseudo_layer, size_t bytes, char *weights,
                            int which, struct tensor *matrix, char **matrix_at, struct tensor *bias, char **bias_at)
{
    (void)handle, (void)bytes;
    const size_t width = element_bytes(net->type);
    if (matrix && matrix_at) {
        bool present = which < 2 * gates(net) + is_projected(net);
        int sizes[3] = {1, 0, 0};
        matrix_shape(net, pseudo_layer, which, &sizes[1], &sizes[2]);
        *matrix_at = present ? weights + matrix_offset(net, pseudo_layer, which) * width : NULL;
        cudnnSetTensorNdDescriptor(matrix, net->type, present ? 3 : 0, sizes,
                                   (int[]){sizes[1] * sizes[2], sizes[2], 1});
    }
    if (bias && bias_at) {
        bool present = net->bias == 2 && which < 2 * gates(net);
        size_t before = (size_t)(pseudo_layer * 2 * gates(net) + which) * (size_t)net->hidden;
        *bias_at = present ? weights + (matrix_offset(net, pseudo_layers(net), 0) + before) * width : NULL;
        cudnnSetTensorNdDescriptor(bias, net->type, present ? 3 : 0, (int[]){1, net->hidden, 1},
                                   (int[]){net->hidden, 1, 1});
    }
    return OK;
}

/* Training keeps each step's gates, cell and output; the workspace holds one layer's gates. Of the right order only. */
int cudnnGetRNNTempSpaceSizes(void *handle, struct recurrent *net, int training, struct sequence *data,
                              size_t *workspace_bytes, size_t *reserve_bytes)
{
    (void)handle;
    note_estimate("cudnnGetRNNTempSpaceSizes");
    size_t cells = (size_t)data->steps * (size_t)data->batch * (size_t)net->hidden * element_bytes(net->type);
    size_t directions = net->bidirectional ? 2 : 1;
    if (workspace_bytes)
        *workspace_bytes = cells * directions * (size_t)gates(net);
    if (reserve_bytes)
        *reserve_bytes = training ? cells * (size_t)pseudo_layers(net) * (size_t)(gates(net) + 2) : 0;
    return OK;
}
