// One pool of sleeping threads. Not OpenMP: torch brings a runtime of its own, and two that spin fight for the cores.
#include "parallel.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace threedgen {
namespace {

struct Pool {
    std::mutex mutex;  // guards all that follows
    std::condition_variable start, done;
    const std::function<void(int64_t)>* work = nullptr;
    int64_t num_pieces = 0;
    int num_helpers = 0;     // threads that exist
    int num_invited = 0;     // helpers that may still join this round
    int num_busy = 0;        // helpers that joined and have not left
    std::atomic<int64_t> next{0};

    void take_pieces() {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < num_pieces;) (*work)(i);
    }

    void help() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            start.wait(lock, [&] { return num_invited > 0; });
            --num_invited;
            ++num_busy;
            lock.unlock();
            take_pieces();
            lock.lock();
            if (--num_busy == 0) done.notify_one();
        }
    }

    void run(int64_t pieces, int helpers, const std::function<void(int64_t)>& todo) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            work = &todo;
            num_pieces = pieces;
            next = 0;
            for (; num_helpers < helpers; ++num_helpers) std::thread([this] { help(); }).detach();
            num_invited = helpers;
        }
        start.notify_all();
        take_pieces();
        std::unique_lock<std::mutex> lock(mutex);
        num_invited = 0;  // who has not come by now finds nothing left to do
        done.wait(lock, [&] { return num_busy == 0; });
    }
};

// A forked child has none of its parent's threads: it starts with a pool of its own. The old one is left as it is,
// for its helpers wait on it until the process ends.
Pool& pool() {
    static std::mutex mutex;
    static Pool* current = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(mutex);
    if (!current || owner != getpid()) {
        current = new Pool;
        owner = getpid();
    }
    return *current;
}

}  // namespace

void parallel_for(int64_t num_pieces, int num_threads, const std::function<void(int64_t)>& work) {
    const int64_t useful = num_threads < num_pieces ? num_threads : num_pieces;
    if (useful <= 1) {
        for (int64_t i = 0; i < num_pieces; ++i) work(i);
        return;
    }
    static std::mutex one_caller;
    std::lock_guard<std::mutex> lock(one_caller);
    pool().run(num_pieces, int(useful) - 1, work);
}

}  // namespace threedgen
