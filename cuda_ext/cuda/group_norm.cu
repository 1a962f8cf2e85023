// Group normalisation (Wu and He 2018) of pictures whose channels lie beside each other in memory (channels-last), with
// SiLU after it if that is wanted, and the gradients of both. The layout stays; SiLU costs no pass over memory.
//
// A block looks at 128 bytes of channels of 256 pixels: eight packs of 16 bytes, a thread each, of 32 pixels at a time.
// A thread meets the same channels in all its pixels, so what these are told stays in registers. Each block writes its
// sums, and a warp adds up those of a group, in an order that is always the same.
#include "stored.h"

#include "threedgen/activations.h"

using namespace threedgen;

namespace {

constexpr int kPacks = 8, kRows = 32, kWarps = kPacks * kRows / 32;  // of a block
constexpr int kPixels = 256;                                         // that a block goes through
constexpr int kThreads = 128;                                        // where a warp takes a group

struct Pictures {
    int64_t count, pixels;
    int channels, groups;

    TG_INLINE int64_t chunks() const { return (pixels + kPixels - 1) / kPixels; }
    TG_INLINE int per_group() const { return channels / groups; }
    template <class S>
    TG_INLINE int64_t tiles() const {
        return (channels + kPacks * kWidth<S> - 1) / (kPacks * kWidth<S>);
    }
    template <class S>
    int64_t blocks() const {
        return count * chunks() * tiles<S>();
    }
    int64_t group_blocks() const { return blocks_for(count * groups * 32, kThreads); }
};

// What a thread looks at: kWidth channels of the pixels first, first + kRows, ... before end; of none where there are
// no such channels.
template <class S>
struct Part {
    int64_t picture, chunk, first, end;
    int tile, channel;

    __device__ explicit Part(const Pictures& of) {
        const int64_t tiles = of.tiles<S>(), block = blockIdx.x;
        tile = int(block % tiles);
        chunk = block / tiles % of.chunks();
        picture = block / tiles / of.chunks();
        channel = (tile * kPacks + int(threadIdx.x)) * kWidth<S>;
        first = chunk * kPixels + threadIdx.y;
        end = channel < of.channels ? smaller(of.pixels, (chunk + 1) * kPixels) : 0;
    }
    __device__ int64_t number(const Pictures& of, int64_t pixel) const {
        return (picture * of.pixels + pixel) * of.channels + channel;
    }
    // of the thread's i-th channel, among the groups of all pictures
    __device__ int64_t group(const Pictures& of, int i) const {
        return picture * of.groups + (channel + i) / of.per_group();
    }
};

// Adds up what the threads of a block have found for each channel: sums [N, chunks, channels, 2].
template <class S>
__device__ void write_sums(const Pictures& of, const Part<S>& part, float (&found)[kWidth<S>][2], float* sums) {
    constexpr int kNumbers = kPacks * kWidth<S> * 2;
    TG_SHARED(float, of_warps);  // [kWarps, kNumbers]
    const int thread = threadIdx.y * kPacks + threadIdx.x;
    for (int i = 0; i < kWidth<S>; ++i)
        for (int which = 0; which < 2; ++which) {
            float sum = found[i][which];  // lanes l, l + 8, l + 16 and l + 24 have the same channels
            sum += __shfl_xor_sync(kAllLanes, sum, 8);
            sum += __shfl_xor_sync(kAllLanes, sum, 16);
            if (thread % 32 < kPacks)
                of_warps[thread / 32 * kNumbers + (int(threadIdx.x) * kWidth<S> + i) * 2 + which] = sum;
        }
    __syncthreads();
    const int64_t begin = int64_t(part.tile) * kNumbers, end = int64_t(of.channels) * 2;
    float* const mine = sums + (part.picture * of.chunks() + part.chunk) * end;
    if (thread >= kNumbers || begin + thread >= end) return;
    float sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp * kNumbers + thread];
    mine[begin + thread] = sum;
}

// A number of each group, near its mean: what is added up are differences from it, so that a mean far from 0 costs the
// variance nothing.
template <class S>
__device__ float pivot_of(const Pictures& of, const uint32_t* x, int64_t group) {
    return load_number<S>(x, group / of.groups * of.pixels * of.channels + group % of.groups * of.per_group());
}

// Of each channel and chunk: differences from the pivot, and their squares.
template <class S>
__global__ void sum_moments(Pictures of, const uint32_t* __restrict__ x, float* __restrict__ sums) {
    const Part<S> part(of);
    float found[kWidth<S>][2] = {}, pivot[kWidth<S>] = {}, numbers[kWidth<S>];
    if (part.end)
        for (int i = 0; i < kWidth<S>; ++i) pivot[i] = pivot_of<S>(of, x, part.group(of, i));
    for (int64_t pixel = part.first; pixel < part.end; pixel += kRows) {
        load_numbers<S>(x, part.number(of, pixel), numbers);
        for (int i = 0; i < kWidth<S>; ++i) {
            const float difference = numbers[i] - pivot[i];
            found[i][0] += difference;
            found[i][1] += difference * difference;
        }
    }
    write_sums<S>(of, part, found, sums);
}

// The two sums of a group, each channel counted `weight(channel)` times, by a warp.
template <class Weight>
__device__ void sum_group(const Pictures& of, const float* sums, int64_t group, float (&total)[2], Weight&& weight) {
    const int64_t picture = group / of.groups;
    const int first = int(group % of.groups) * of.per_group();
    total[0] = total[1] = 0;
    for (int64_t i = threadIdx.x & 31; i < of.chunks() * of.per_group(); i += 32) {
        const int channel = first + int(i % of.per_group());
        const float* const at = sums + ((picture * of.chunks() + i / of.per_group()) * of.channels + channel) * 2;
        total[0] += weight(channel) * at[0];
        total[1] += weight(channel) * at[1];
    }
    for (float& sum : total) sum = sum_over_warp(sum);
}

// Mean and 1 / standard deviation of each group, [N, groups]: one warp a group.
template <class S>
__global__ void find_statistics(Pictures of, const uint32_t* __restrict__ x, const float* __restrict__ sums, float eps,
                                float* __restrict__ mean, float* __restrict__ rstd) {
    const int64_t group = thread_in_grid() >> 5;
    if (group >= of.count * of.groups) return;
    float total[2];
    sum_group(of, sums, group, total, [](int) { return 1.0f; });
    const float count = float(of.per_group()) * float(of.pixels), offset = total[0] / count;
    if ((threadIdx.x & 31) != 0) return;
    mean[group] = pivot_of<S>(of, x, group) + offset;
    rstd[group] = 1.0f / sqrtf(larger(total[1] / count - offset * offset, 0.0f) + eps);
}

template <class S, bool kSilu>
__global__ void normalise(Pictures of, const uint32_t* __restrict__ x, const uint32_t* __restrict__ weight,
                          const uint32_t* __restrict__ bias, const float* __restrict__ mean,
                          const float* __restrict__ rstd, uint32_t* __restrict__ out) {
    const Part<S> part(of);
    float scale[kWidth<S>], shift[kWidth<S>], numbers[kWidth<S>];
    if (part.end) {
        load_numbers<S>(weight, part.channel, scale);
        load_numbers<S>(bias, part.channel, shift);
        for (int i = 0; i < kWidth<S>; ++i) {
            scale[i] *= rstd[part.group(of, i)];
            shift[i] -= mean[part.group(of, i)] * scale[i];
        }
    }
    for (int64_t pixel = part.first; pixel < part.end; pixel += kRows) {
        load_numbers<S>(x, part.number(of, pixel), numbers);
        for (int i = 0; i < kWidth<S>; ++i) {
            const float z = numbers[i] * scale[i] + shift[i];
            numbers[i] = kSilu ? z * sigmoid(z) : z;
        }
        store_numbers<S>(out, part.number(of, pixel), numbers);
    }
}

// What a thread's channels are told in the backward pass: unit = (x - mean) rstd, and z = unit weight + bias.
template <class S, bool kSilu>
struct Channels {
    float rstd[kWidth<S>], offset[kWidth<S>], weight[kWidth<S>], bias[kWidth<S>];

    __device__ Channels(const Pictures& of, const Part<S>& part, const uint32_t* weights, const uint32_t* biases,
                        const float* means, const float* rstds) {
        load_numbers<S>(weights, part.channel, weight);
        load_numbers<S>(biases, part.channel, bias);
        for (int i = 0; i < kWidth<S>; ++i) {
            rstd[i] = rstds[part.group(of, i)];
            offset[i] = means[part.group(of, i)] * rstd[i];
        }
    }
    __device__ float unit(int i, float x) const { return x * rstd[i] - offset[i]; }
    // The gradient of z from that of the output.
    __device__ float grad_of_z(int i, float unit, float grad) const {
        if (!kSilu) return grad;
        const float z = unit * weight[i] + bias[i], part = sigmoid(z);
        return grad * part * (1.0f + z * (1.0f - part));
    }
};

// Of each channel and chunk: the gradients of z, and these times the normalised numbers. Summed over pictures and
// chunks they are the gradients of bias and weight.
template <class S, bool kSilu>
__global__ void sum_gradients(Pictures of, const uint32_t* __restrict__ x, const uint32_t* __restrict__ weight,
                              const uint32_t* __restrict__ bias, const float* __restrict__ mean,
                              const float* __restrict__ rstd, const uint32_t* __restrict__ grad,
                              float* __restrict__ sums) {
    const Part<S> part(of);
    float found[kWidth<S>][2] = {}, numbers[kWidth<S>], grads[kWidth<S>];
    if (part.end) {
        const Channels<S, kSilu> channels(of, part, weight, bias, mean, rstd);
        for (int64_t pixel = part.first; pixel < part.end; pixel += kRows) {
            load_numbers<S>(x, part.number(of, pixel), numbers);
            load_numbers<S>(grad, part.number(of, pixel), grads);
            for (int i = 0; i < kWidth<S>; ++i) {
                const float unit = channels.unit(i, numbers[i]), of_z = channels.grad_of_z(i, unit, grads[i]);
                found[i][0] += of_z;
                found[i][1] += of_z * unit;
            }
        }
    }
    write_sums<S>(of, part, found, sums);
}

// Means over a group of weight times the gradient of z, and of that times the normalised number: [N, groups, 2].
template <class S>
__global__ void find_gradient_means(Pictures of, const float* __restrict__ sums, const uint32_t* __restrict__ weight,
                                    float* __restrict__ means) {
    const int64_t group = thread_in_grid() >> 5;
    const int lane = threadIdx.x & 31;
    if (group >= of.count * of.groups) return;
    float total[2];
    sum_group(of, sums, group, total, [&](int channel) { return load_number<S>(weight, channel); });
    const float count = float(of.per_group()) * float(of.pixels);
    if (lane < 2) means[2 * group + lane] = (lane == 0 ? total[0] : total[1]) / count;
}

// d x = rstd (weight d z - mean of weight d z - unit mean of weight d z unit)
template <class S, bool kSilu>
__global__ void grad_of_input(Pictures of, const uint32_t* __restrict__ x, const uint32_t* __restrict__ weight,
                              const uint32_t* __restrict__ bias, const float* __restrict__ mean,
                              const float* __restrict__ rstd, const uint32_t* __restrict__ grad,
                              const float* __restrict__ means, uint32_t* __restrict__ out) {
    const Part<S> part(of);
    if (!part.end) return;
    const Channels<S, kSilu> channels(of, part, weight, bias, mean, rstd);
    float of_ones[kWidth<S>], of_units[kWidth<S>], numbers[kWidth<S>], grads[kWidth<S>];
    for (int i = 0; i < kWidth<S>; ++i) {
        of_ones[i] = means[2 * part.group(of, i)];
        of_units[i] = means[2 * part.group(of, i) + 1];
    }
    for (int64_t pixel = part.first; pixel < part.end; pixel += kRows) {
        load_numbers<S>(x, part.number(of, pixel), numbers);
        load_numbers<S>(grad, part.number(of, pixel), grads);
        for (int i = 0; i < kWidth<S>; ++i) {
            const float unit = channels.unit(i, numbers[i]), of_z = channels.grad_of_z(i, unit, grads[i]);
            numbers[i] = channels.rstd[i] * (channels.weight[i] * of_z - of_ones[i] - unit * of_units[i]);
        }
        store_numbers<S>(out, part.number(of, pixel), numbers);
    }
}

template <class S>
constexpr int64_t kSumsBytes = int64_t(sizeof(float)) * kWarps * kPacks * kWidth<S> * 2;

template <class S, bool kSilu>
int64_t forward(const Pictures& of, const uint32_t* x, const uint32_t* weight, const uint32_t* bias, float eps,
                float* sums, float* mean, float* rstd, uint32_t* out, void* stream) {
    const dim3 block(kPacks, kRows);
    int64_t error = launch(sum_moments<S>, of.blocks<S>(), block, kSumsBytes<S>, stream, of, x, sums);
    if (!error)
        error = launch(find_statistics<S>, of.group_blocks(), kThreads, 0, stream, of, x, sums, eps, mean, rstd);
    if (!error)
        error = launch(normalise<S, kSilu>, of.blocks<S>(), block, 0, stream, of, x, weight, bias, mean, rstd, out);
    return error;
}

template <class S, bool kSilu>
int64_t backward(const Pictures& of, const uint32_t* x, const uint32_t* weight, const uint32_t* bias,
                 const float* mean, const float* rstd, const uint32_t* grad, float* sums, float* means, uint32_t* out,
                 void* stream) {
    const dim3 block(kPacks, kRows);
    int64_t error = launch(sum_gradients<S, kSilu>, of.blocks<S>(), block, kSumsBytes<S>, stream, of, x, weight, bias,
                           mean, rstd, grad, sums);
    if (!error)
        error = launch(find_gradient_means<S>, of.group_blocks(), kThreads, 0, stream, of, sums, weight, means);
    if (!error)
        error = launch(grad_of_input<S, kSilu>, of.blocks<S>(), block, 0, stream, of, x, weight, bias, mean, rstd, grad,
                       means, out);
    return error;
}

}  // namespace

// Tensors of numbers of one kind (0: float, 1: half precision, 2: bfloat16), at addresses that are multiples of 16
// bytes: x, out, grad [N, pixels, channels], weight, bias [channels], channels a multiple of the numbers in 16 bytes.
// The rest is float: sums [N, chunks of 256 pixels, channels, 2], mean, rstd [N, groups], means [N, groups, 2].
#define TG_OF_KIND(function, ...)                                                                                      \
    (kind == 0   ? (silu ? function<Float, true>(__VA_ARGS__) : function<Float, false>(__VA_ARGS__))                   \
     : kind == 1 ? (silu ? function<Half, true>(__VA_ARGS__) : function<Half, false>(__VA_ARGS__))                     \
                 : (silu ? function<Bfloat, true>(__VA_ARGS__) : function<Bfloat, false>(__VA_ARGS__)))

TG_API int64_t tg_group_norm_f32(int64_t kind, int64_t num_pictures, int64_t pixels, int64_t channels, int64_t groups,
                                 const uint32_t* x, const uint32_t* weight, const uint32_t* bias, float eps,
                                 int64_t silu, float* sums, float* mean, float* rstd, uint32_t* out, void* stream) {
    const Pictures of{num_pictures, pixels, int(channels), int(groups)};
    return TG_OF_KIND(forward, of, x, weight, bias, eps, sums, mean, rstd, out, stream);
}
TG_API int64_t tg_group_norm_backward_f32(int64_t kind, int64_t num_pictures, int64_t pixels, int64_t channels,
                                          int64_t groups, const uint32_t* x, const uint32_t* weight,
                                          const uint32_t* bias, const float* mean, const float* rstd,
                                          const uint32_t* grad, int64_t silu, float* sums, float* means, uint32_t* out,
                                          void* stream) {
    const Pictures of{num_pictures, pixels, int(channels), int(groups)};
    return TG_OF_KIND(backward, of, x, weight, bias, mean, rstd, grad, sums, means, out, stream);
}
