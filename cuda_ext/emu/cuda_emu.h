// Runs CUDA kernels on a CPU: the same .cu file, compiled by a C++ compiler, one block after the other. Every CUDA
// thread is a fiber with a stack of its own; it runs until it ends or waits at a barrier, so what threads exchange
// through barriers, shuffles, votes, atomics and shared memory is what a GPU would exchange.
//
// A launch fails, as it would not always on a GPU, when
//   - threads of a block wait at different barriers, so that none can go on (a hang on a GPU);
//   - the lanes that a warp operation names do not all take part in this very operation.
// Shared memory starts as nan in every block, and a shuffle that reads a lane which does not take part gives nan.
// `tg_emulate_backwards` turns the order of the threads around: a missing barrier shows in one of the two orders.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulated {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 64 << 10;
constexpr uint64_t kNoVote = 2;  // given at a barrier of a block

// What a thread waits at. Lanes of a warp must meet in the same kind of operation.
enum class Wait { nothing, block, warp, shuffle, vote, product, transpose };

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    dim3 index;
    bool done;
    Wait wait;
    unsigned mask;            // lanes that the warp operation names
    uint64_t given;           // to the other lanes
    uint64_t seen[kWarp];     // what each lane gave; all bits set for one that does not take part
    uint32_t operands[2][6];  // of a product of matrices: of the last one and of the one before, by turns
    int turn;
};

struct Machine {
    std::vector<Thread> threads;
    std::vector<unsigned char> shared;
    ucontext_t scheduler;
    int current = 0;
    bool any = false;  // of what the threads of a block gave to their last vote
    dim3 block_index, block_size, grid_size;
    const std::function<void()>* kernel = nullptr;
    bool backwards = false;
    bool adds_pairs = false;  // to memory at once, as GPUs of compute capability 9.0 and up do
    std::string failure;  // of launches since it was last asked for
};
inline Machine machine;

inline Thread& self() { return machine.threads[machine.current]; }

inline void start_thread() {
    (*machine.kernel)();
    self().done = true;
    swapcontext(&self().context, &machine.scheduler);
}

inline void wait_at(Wait wait, unsigned mask) {
    Thread& me = self();
    me.wait = wait;
    me.mask = mask;
    swapcontext(&me.context, &machine.scheduler);
}

inline std::string place(int thread) {
    const dim3 t = machine.threads[thread].index, b = machine.block_index;
    return "thread (" + std::to_string(t.x) + ", " + std::to_string(t.y) + ") of block (" + std::to_string(b.x) + ", " +
           std::to_string(b.y) + ")";
}

// Lets the lanes go on whose warp operation is complete, each with what the others gave; returns whether there were
// any.
inline bool release_warp(int first, int num_threads) {
    const int lanes = std::min(kWarp, num_threads - first);
    bool released = false;
    for (int i = 0; i < lanes; ++i) {
        const Thread& waiting = machine.threads[first + i];
        if (waiting.done || waiting.wait == Wait::nothing || waiting.wait == Wait::block) continue;
        if (!(waiting.mask >> i & 1)) {
            machine.failure = place(first + i) + " is not in its own mask";
            return false;
        }
        bool complete = true;
        for (int j = 0; j < lanes; ++j) {
            const Thread& other = machine.threads[first + j];
            if (other.done || !(waiting.mask >> j & 1)) continue;
            complete = complete && other.wait == waiting.wait && other.mask == waiting.mask;
        }
        if (!complete) continue;
        uint64_t seen[kWarp];
        memset(seen, 0xff, sizeof seen);
        const unsigned mask = waiting.mask;
        for (int j = 0; j < lanes; ++j)
            if (mask >> j & 1 && !machine.threads[first + j].done) seen[j] = machine.threads[first + j].given;
        for (int j = 0; j < lanes; ++j)
            if (mask >> j & 1) {
                machine.threads[first + j].wait = Wait::nothing;
                memcpy(machine.threads[first + j].seen, seen, sizeof seen);
            }
        released = true;
    }
    return released;
}

// One block; returns false, with `failure` set, if its threads cannot all come to an end.
inline bool run_block(int num_threads) {
    Machine& m = machine;
    for (int i = 0; i < num_threads; ++i) {
        Thread& thread = m.threads[i];
        const dim3 size = m.block_size;
        thread.index = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
        thread.done = false;
        thread.wait = Wait::nothing;
        thread.turn = 0;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, start_thread, 0);
    }
    for (;;) {
        bool moved = false;
        for (int i = 0; i < num_threads; ++i) {
            m.current = m.backwards ? num_threads - 1 - i : i;
            if (self().done || self().wait != Wait::nothing) continue;
            swapcontext(&m.scheduler, &self().context);
            moved = true;
        }
        int alive = 0, at_barrier = 0, stuck = 0;
        for (int first = 0; first < num_threads; first += kWarp) moved = release_warp(first, num_threads) || moved;
        for (int i = 0; i < num_threads; ++i)
            if (!m.threads[i].done) {
                ++alive;
                at_barrier += m.threads[i].wait == Wait::block;
                stuck = i;
            }
        if (!m.failure.empty()) return false;
        if (alive == 0) return true;
        if (alive == at_barrier) {
            int votes = 0;
            m.any = false;
            for (int i = 0; i < num_threads; ++i)
                if (const Thread& thread = m.threads[i]; !thread.done && thread.given != kNoVote) {
                    ++votes;
                    m.any = m.any || thread.given;
                }
            if (votes != 0 && votes != alive) {
                m.failure = "threads of one block wait at a barrier and at a vote";
                return false;
            }
            for (int i = 0; i < num_threads; ++i) m.threads[i].wait = Wait::nothing;
            moved = true;
        }
        if (!moved) {
            m.failure = "deadlock: " + place(stuck) + " waits at a barrier that other threads do not reach";
            return false;
        }
    }
}

inline void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
    Machine& m = machine;
    const int num_threads = int(block.x * block.y * block.z);
    if (num_threads == 0 || num_threads > 1024 || grid.x * grid.y * grid.z == 0 || shared_bytes > 99 << 10) {
        m.failure = "invalid launch configuration";
        return;
    }
    if (int(m.threads.size()) < num_threads) m.threads.resize(num_threads);
    for (int i = 0; i < num_threads; ++i) m.threads[i].stack.resize(kStackBytes);
    m.kernel = &kernel;
    m.grid_size = grid;
    m.block_size = block;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                m.block_index = dim3(x, y, z);
                m.shared.assign(shared_bytes, 0xff);
                if (!run_block(num_threads)) return;
            }
}

// Gives `value` to the warp and returns what lane `source` gave.
template <class T>
T exchange(unsigned mask, T value, int source) {
    memcpy(&self().given, &value, sizeof value);
    wait_at(Wait::shuffle, mask);
    memcpy(&value, &self().seen[source], sizeof value);
    return value;
}

inline int lane() { return machine.current & (kWarp - 1); }

}  // namespace emulated

#define threadIdx (emulated::self().index)
#define blockIdx (emulated::machine.block_index)
#define blockDim (emulated::machine.block_size)
#define gridDim (emulated::machine.grid_size)

inline void __syncthreads() {
    emulated::self().given = emulated::kNoVote;
    emulated::wait_at(emulated::Wait::block, 0);
}
inline int __syncthreads_or(int predicate) {
    emulated::self().given = predicate != 0;
    emulated::wait_at(emulated::Wait::block, 0);
    return emulated::machine.any;
}
inline void __syncwarp(unsigned mask = ~0u) { emulated::wait_at(emulated::Wait::warp, mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
    return emulated::exchange(mask, value, source & 31);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
    const int lane = emulated::lane(), source = lane - int(delta);
    return emulated::exchange(mask, value, source < 0 ? lane : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
    const int lane = emulated::lane(), source = lane + int(delta);
    return emulated::exchange(mask, value, source > 31 ? lane : source);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return emulated::exchange(mask, value, emulated::lane() ^ bits);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emulated::Thread& me = emulated::self();
    me.given = predicate != 0;
    emulated::wait_at(emulated::Wait::vote, mask);
    unsigned votes = 0;
    for (int i = 0; i < emulated::kWarp; ++i) votes |= unsigned(me.seen[i] == 1) << i;
    return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }

template <class T>
T atomicAdd(T* to, T value) {
    const T before = *to;
    *to = before + value;
    return before;
}
inline unsigned atomicOr(unsigned* to, unsigned bits) {
    const unsigned before = *to;
    *to = before | bits;
    return before;
}
