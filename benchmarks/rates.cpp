// What this processor can do at best, one thread: the rates that a counted floor is made of. Seconds for `count` of each.
#include <cstddef>
#include <cstdint>
#include <ctime>

namespace {

double now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

typedef float Vector8 __attribute__((vector_size(32)));
typedef float Vector16 __attribute__((vector_size(64)));

// The i-th place to read: spread over a table of 2^log2_rows rows, and known without waiting for the one before it.
uint32_t row_of(int64_t i, int64_t log2_rows) { return (uint32_t(i) * 2654435761u) >> (32 - log2_rows); }

template <class Vector>
double multiply_adds(int64_t count) {
    Vector sum[12] = {}, x = Vector{} + 0.999f, y = Vector{} + 1e-3f;
    for (Vector& s : sum) asm volatile("" : "+x"(s));  // for all that the compiler knows, they differ
    const double start = now();
    for (int64_t i = 0; i < count; i += 12)
        for (int k = 0; k < 12; ++k) sum[k] = sum[k] * x + y;
    for (Vector& s : sum) asm volatile("" : : "x"(s));  // and somebody wants them
    return now() - start;
}

}  // namespace

// Of vectors of 8 or 16 numbers; 0: the processor has no such vectors.
extern "C" double multiply_adds_8(int64_t count) { return multiply_adds<Vector8>(count); }
extern "C" double multiply_adds_16(int64_t count) {
#if defined(__AVX512F__)
    return multiply_adds<Vector16>(count);
#else
    return 0 * double(count);
#endif
}

template <int kFeatures>
struct Rows {
    typedef float Row __attribute__((vector_size(4 * kFeatures), aligned(4)));

    static double read(int64_t count, const float* table, int64_t log2_rows) {
        Row sum[4] = {};
        const double start = now();
        for (int64_t i = 0; i < count; i += 2)
            for (int k = 0; k < 2; ++k) {
                const Row* pair = (const Row*)(table + size_t(row_of(i + k, log2_rows)) * kFeatures);
                sum[2 * k] += pair[0];
                sum[2 * k + 1] += pair[1];
            }
        sum[0] += sum[1] + sum[2] + sum[3];
        asm volatile("" : : "x"(sum[0]));
        return now() - start;
    }

    static double add(int64_t count, float* table, int64_t log2_rows) {
        const double start = now();
        for (int64_t i = 0; i < count; ++i) {
            Row* pair = (Row*)(table + size_t(row_of(i, log2_rows)) * kFeatures);
            pair[0] += 1e-3f;
            pair[1] += 1e-3f;
        }
        return now() - start;
    }
};

// Reads of two neighbouring rows of 2, 4 or 8 features; the table has one row more than 2^log2_rows.
extern "C" double read_pairs(int64_t count, int64_t features, float* table, int64_t log2_rows) {
    return features == 8   ? Rows<8>::read(count, table, log2_rows)
           : features == 4 ? Rows<4>::read(count, table, log2_rows)
                           : Rows<2>::read(count, table, log2_rows);
}
extern "C" double add_to_pairs(int64_t count, int64_t features, float* table, int64_t log2_rows) {
    return features == 8   ? Rows<8>::add(count, table, log2_rows)
           : features == 4 ? Rows<4>::add(count, table, log2_rows)
                           : Rows<2>::add(count, table, log2_rows);
}
extern "C" double copy(int64_t count, const float* from, float* to) {
    const double start = now();
    for (int64_t i = 0; i < count; ++i) to[i] = from[i] + 1.0f;
    return now() - start;
}
