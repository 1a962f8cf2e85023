// Splits work over the threads of one pool, in pieces that do not depend on how many threads there are.
#pragma once

#include <cstdint>
#include <functional>

namespace threedgen {

// Calls work(piece) for 0 <= piece < num_pieces on up to num_threads threads, the caller's among them, and waits.
// Which thread takes which piece varies: a piece may only write what no other piece writes.
// Not to be called from inside `work`; calls from several threads at once wait for each other.
void parallel_for(int64_t num_pieces, int num_threads, const std::function<void(int64_t)>& work);

// The same over 0 .. count - 1 in pieces of `piece` neighbours: work(begin, end).
inline void parallel_ranges(int64_t count, int64_t piece, int num_threads,
                            const std::function<void(int64_t, int64_t)>& work) {
    parallel_for((count + piece - 1) / piece, num_threads, [&](int64_t i) {
        const int64_t begin = i * piece;
        work(begin, begin + piece < count ? begin + piece : count);
    });
}

}  // namespace threedgen
