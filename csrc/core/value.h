// The value types of the machine: lane vectors on the CPU, one thread's scalars on a GPU.
#pragma once
#if defined(__CUDACC__)
#include "scalar.h"
#else
#include "lanes.h"
#endif
