// The library's face: plain C functions on raw pointers. The caller owns every buffer and has checked every size;
// no function throws, keeps a pointer or knows torch. Every integer is an int64_t; every real number has the type that
// the function's name ends in (_f32, _f64).
#pragma once

#if defined(_WIN32)
#define TG_API extern "C" __declspec(dllexport)
#else
#define TG_API extern "C" __attribute__((visibility("default")))
#endif
