# The engine and its library.  Objects go to build/; kernels/backend/cpu/isa_*.c are compiled once an instruction set.
KERNEL_CFLAGS ?= -O3 -g
KERNEL_FLAGS = -std=gnu11 -Wall -Wextra -D_GNU_SOURCE -fPIC -fvisibility=hidden -fno-math-errno -MMD -MP

ENGINE_SRCS = $(wildcard kernels/engine/*.c)
KERNEL_SRCS = $(wildcard kernels/text/*.c kernels/model/*.c kernels/stats/*.c kernels/backend/*.c) \
              $(filter-out kernels/backend/cpu/isa_%.c,$(wildcard kernels/backend/cpu/*.c)) $(wildcard kernels/backend/cuda/*.c) \
              $(filter-out kernels/engine/main.c,$(ENGINE_SRCS))
AMX_SRCS = $(wildcard kernels/backend/cpu/isa_amx_*.c)
ISA_SRCS = $(filter-out $(AMX_SRCS),$(wildcard kernels/backend/cpu/isa_*.c))
ISA_SRCS_amx = $(AMX_SRCS) $(filter-out %/isa_gemm.c %/isa_attention.c %/isa_knn.c,$(ISA_SRCS))
ISA_SRCS_neon = $(filter-out %/isa_knn.c,$(ISA_SRCS))

ifeq ($(shell uname -m),x86_64)
ISAS = portable avx2 avx512 avx512_bf16 amx
else ifeq ($(shell uname -m),aarch64)
ISAS = portable neon
else
ISAS = portable
endif
ISA_FLAGS_portable =
ISA_FLAGS_neon = -DNEON
ISA_FLAGS_avx2 = -mavx2 -mfma -mf16c
ISA_FLAGS_avx512 = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512
ISA_FLAGS_avx512_bf16 = $(ISA_FLAGS_avx512) -mavx512bf16 -DBF16
ISA_FLAGS_amx = $(ISA_FLAGS_avx512_bf16) -DAMX -Ikernels/backend/cpu/amx

isa_objs = $(patsubst %.c,$(or $(2),build)/%.$(1).o,$(or $(ISA_SRCS_$(1)),$(ISA_SRCS)))
KERNEL_OBJS = $(KERNEL_SRCS:%.c=build/%.o) $(foreach isa,$(ISAS),$(call isa_objs,$(isa)))

define isa_rule
build/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(CC) $$(KERNEL_CFLAGS) $$(KERNEL_FLAGS) -DISA=$(1) $$(ISA_FLAGS_$(1)) -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

build/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS) -c $< -o $@

build/libkernels.a: $(KERNEL_OBJS)
	rm -f $@; $(AR) rcs $@ $^

KERNEL_LIBS = -lpcre2-8 -lcrypto -lpthread -lm -ldl

tlaw_engine: build/kernels/engine/main.o build/libkernels.a
	$(CC) $(KERNEL_CFLAGS) -o $@ $^ $(KERNEL_LIBS)

# tlaw_cuda.so, where there is an nvcc; it loads cuBLASLt itself, when a device is opened.  Machine code for sm_80 and sm_90, PTX for what comes later.
NVCC ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_SRCS = $(wildcard kernels/backend/cuda/*.cu)
CUDA_LANGUAGE = -std=c++20 -O3 -MMD -MP -Ikernels/backend/cuda
CUDA_FLAGS = $(CUDA_LANGUAGE) -Xcompiler -fPIC,-fvisibility=hidden,-Wall \
             -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90]
ifneq ($(NVCC),)
CUDA_LIBRARY = tlaw_cuda.so
build/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_FLAGS) -c $< -o $@
tlaw_cuda.so: $(CUDA_SRCS:%=build/%.o)
	$(NVCC) -shared -o $@ $^ -Xlinker -z,lazy,-rpath,$(abspath $(dir $(NVCC))../lib64)
else
all: no-cuda
no-cuda:
	@echo "no nvcc here: built without CUDA (tlaw_cuda.so)"
.PHONY: no-cuda
endif

-include $(shell find build -name '*.d' 2>/dev/null)
