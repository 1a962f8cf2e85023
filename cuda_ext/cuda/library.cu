// What concerns the library as a whole.
#include "launch.h"

#include <cstdio>

#if defined(__CUDACC__)
TG_API const char* tg_error_text(int64_t code) { return cudaGetErrorString(cudaError_t(code)); }
#else
// Text of the last failure; it is then forgotten.
TG_API const char* tg_error_text(int64_t) {
    static std::string text;
    text.swap(emulated::machine.failure);
    emulated::machine.failure.clear();
    return text.c_str();
}

TG_API void tg_emulate_backwards(int64_t yes) { emulated::machine.backwards = yes != 0; }
TG_API void tg_emulate_pairs(int64_t yes) { emulated::machine.adds_pairs = yes != 0; }
#endif
