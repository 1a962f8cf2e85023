// A two-stage pipeline over chunks of work, for sums that must not depend on the number of threads.
//
// Chunks are made by any thread in any order; each of several takers then takes all of them, one after the other. So
// what a taker adds up (a level of the gradient table, say) is added in the order of the chunks, with neither atomics
// nor a table for each thread, and a chunk is taken while it is still in a cache.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "parallel.h"

namespace threedgen {

class Pipeline {
public:
    Pipeline(int64_t num_chunks, int64_t num_takers, int64_t num_slots)
        : num_chunks_(num_chunks), next_of_(num_takers, 0), taking_(num_takers, 0), made_(num_slots, 0),
          to_take_(num_slots, 0) {}

    // make(chunk, slot) fills a slot; take(taker, slot) reads it.
    template <class Make, class Take>
    void run(int num_threads, Make make, Take take) {
        parallel_for(num_threads, num_threads, [&](int64_t thread) {
            std::unique_lock<std::mutex> lock(mutex_);
            for (;;) {
                const int64_t taker = ready_taker(thread * int64_t(next_of_.size()) / num_threads);
                if (taker >= 0) {
                    taking_[taker] = 1;
                    const int64_t slot = slot_of(next_of_[taker]);
                    lock.unlock();
                    take(taker, slot);
                    lock.lock();
                    taking_[taker] = 0;
                    ++next_of_[taker];
                    if (--to_take_[slot] == 0) made_[slot] = 0;
                    changed_.notify_all();
                } else if (next_chunk_ < num_chunks_ && to_take_[slot_of(next_chunk_)] == 0) {
                    const int64_t chunk = next_chunk_++, slot = slot_of(chunk);
                    to_take_[slot] = int64_t(next_of_.size());
                    lock.unlock();
                    make(chunk, slot);
                    lock.lock();
                    made_[slot] = 1;
                    changed_.notify_all();
                } else if (finished()) {
                    return;
                } else {
                    changed_.wait(lock);
                }
            }
        });
    }

private:
    const int64_t num_chunks_;
    std::mutex mutex_;  // guards all that follows
    std::condition_variable changed_;
    int64_t next_chunk_ = 0;         // to be made
    std::vector<int64_t> next_of_;   // taker -> the chunk it takes next
    std::vector<char> taking_;       // taker -> some thread is at it
    std::vector<char> made_;         // slot -> filled
    std::vector<int64_t> to_take_;   // slot -> takers that have not been there; 0: free

    int64_t slot_of(int64_t chunk) const { return chunk % int64_t(made_.size()); }

    // One that nobody is at and whose next chunk is there, or -1. Each thread begins to look at a place of its own, so
    // that it tends to keep its takers, and with them their memory in its cache.
    int64_t ready_taker(int64_t first) const {
        const int64_t count = int64_t(next_of_.size());
        for (int64_t i = 0; i < count; ++i) {
            const int64_t taker = (first + i) % count;
            if (!taking_[taker] && next_of_[taker] < next_chunk_ && made_[slot_of(next_of_[taker])]) return taker;
        }
        return -1;
    }
    bool finished() const {
        for (const int64_t next : next_of_)
            if (next < num_chunks_) return false;
        return true;
    }
};

}  // namespace threedgen
