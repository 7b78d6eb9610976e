#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/common/launch.cuh"
#include "../../csrc/common/tensor_core.cuh"
#include "../../csrc/common/vector_access.cuh"

// Kernels that are right, and kernels with one bug each, for test_emulator.py:
//
//   emulator_test CASE [forward|reverse|random [wait|issue|mixed]]
//
// prints "right" or "wrong", or the emulator's error (exit status 3); "all" runs the kernels that
// are right, and names each. What a sanitizer finds ends the program with its report.
namespace {

const cudaStream_t stream = simt::callers_stream();

template <typename T>
std::vector<T> numbers(size_t count, int modulus) {
  std::vector<T> result(count);
  unsigned state = 1;
  for (T& number : result) {
    state = state * 1664525u + 1013904223u;
    number = static_cast<T>(static_cast<int>((state >> 16) % modulus) - modulus / 2);
  }
  return result;
}

// Sums of blocks of 256, with barriers; `kBarrier` leaves those of the loop out.
template <bool kBarrier>
__global__ void block_sum(const float* input, float* sums) {
  FASTSEG_SHARED(float, partial, [256]);
  const int t = threadIdx.x;
  partial[t] = input[blockIdx.x * 256 + t];
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (t < half) partial[t] += partial[t + half];
    if (kBarrier) __syncthreads();
  }
  if (t == 0) sums[blockIdx.x] = partial[0];
}

template <bool kBarrier>
bool block_sum_case() {
  const std::vector<float> input = numbers<float>(1024, 17);
  std::vector<float> sums(4);
  FASTSEG_LAUNCH(block_sum<kBarrier>, 4, 256, 0, stream, input.data(), sums.data());
  for (int i = 0; i < 1024; ++i) sums[i / 256] -= input[i];
  return sums == std::vector<float>(4, 0.0f);
}

// Inclusive scan of up to 1024 numbers: shuffles within a warp, then across warps.
__global__ void scan(const int* input, int* output, int count) {
  FASTSEG_SHARED(int, warp_sums, [32]);
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  int value = t < count ? input[t] : 0;
  for (int delta = 1; delta < 32; delta *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, value, delta);
    if (lane >= delta) value += other;
  }
  if (lane == 31) warp_sums[warp] = value;
  __syncthreads();
  if (warp == 0) {
    int sum = lane < static_cast<int>(blockDim.x) / 32 ? warp_sums[lane] : 0;
    for (int delta = 1; delta < 32; delta *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, delta);
      if (lane >= delta) sum += other;
    }
    warp_sums[lane] = sum;
  }
  __syncthreads();
  if (t < count) output[t] = value + (warp > 0 ? warp_sums[warp - 1] : 0);
}

bool scan_case() {
  const std::vector<int> input = numbers<int>(250, 9);
  std::vector<int> output(250), expected(250);
  FASTSEG_LAUNCH(scan, 1, 256, 0, stream, input.data(), output.data(), 250);
  for (int i = 0, sum = 0; i < 250; ++i) expected[i] = sum += input[i];
  return output == expected;
}

// Open addressing; counts the different keys.
__global__ void insert(const unsigned long long* keys, int count, unsigned long long* table,
                       unsigned slots, int* places, int* different) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  for (unsigned slot = keys[i] * 0x9E3779B97F4A7C15ull >> 40;; ++slot) {
    slot %= slots;
    const unsigned long long seen = atomicCAS(&table[slot], ~0ull, keys[i]);
    if (seen == ~0ull) atomicAdd(different, 1);
    if (seen == ~0ull || seen == keys[i]) {
      places[i] = static_cast<int>(slot);
      return;
    }
  }
}

bool hash_case() {
  std::vector<unsigned long long> keys = numbers<unsigned long long>(3000, 900), table(2048, ~0ull);
  for (auto& key : keys) key = key * 7919 & 0xffffffffull;
  std::vector<int> places(3000);
  int different = 0;
  FASTSEG_LAUNCH(insert, 12, 256, 0, stream, keys.data(), 3000, table.data(), 2048u, places.data(),
                 &different);
  bool right =
      different == static_cast<int>(std::set<unsigned long long>(keys.begin(), keys.end()).size());
  for (int i = 0; i < 3000; ++i) right &= table[places[i]] == keys[i];
  return right;
}

// C = A B in tiles of 8 x 8 in dynamic shared memory; `kColumns` of each are read.
template <int kColumns>
__global__ void matrix_product(const float* a, const float* b, float* c, int n) {
  FASTSEG_DYNAMIC_SHARED(float, tiles);
  float *tile_a = tiles, *tile_b = tiles + 64;
  const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 8 + y, column = blockIdx.x * 8 + x;
  float sum = 0;
  for (int k = 0; k < n; k += 8) {
    tile_a[y * 8 + x] = row < n && k + x < n ? a[row * n + k + x] : 0.0f;
    tile_b[y * 8 + x] = k + y < n && column < n ? b[(k + y) * n + column] : 0.0f;
    __syncthreads();
    for (int i = 0; i < kColumns; ++i) sum += tile_a[y * 8 + i] * tile_b[i * 8 + x];
    __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}

template <int kColumns>
bool matrix_case() {
  constexpr int n = 19;
  const std::vector<float> a = numbers<float>(n * n, 7), b = numbers<float>(n * n, 5);
  std::vector<float> c(n * n);
  FASTSEG_LAUNCH(matrix_product<kColumns>, dim3(3, 3), dim3(8, 8), 128 * sizeof(float), stream,
                 a.data(), b.data(), c.data(), n);
  bool right = true;
  for (int i = 0; i < n * n; ++i) {
    float sum = 0;
    for (int k = 0; k < n; ++k) sum += a[i / n * n + k] * b[k * n + i % n];
    right &= c[i] == sum;
  }
  return right;
}

// A copy through two stages of shared memory, each filled while the other is read; the last
// `count % 4` numbers of a stage are zeros that cp.async makes. `kOpen` groups are left open by the
// wait: one is right, with two the stage is read that is still on its way. `kBarrier` leaves out
// the one before a stage is filled again: some threads may still be to read it.
template <int kOpen, bool kBarrier>
__global__ void staged_copy(const float* from, float* to, int count) {
  FASTSEG_SHARED(float, stages, [2][128]);
  const int t = threadIdx.x, steps = (count + 127) / 128;
  const auto fetch = [&](int step) {
    const int at = step * 128 + t * 4, left = count - at;
    if (step < steps) {
      const int zeros = left >= 4 ? 0 : left <= 0 ? 16 : 16 - 4 * left;
      __pipeline_memcpy_async(&stages[step % 2][t * 4], from + (left > 0 ? at : 0), 16, zeros);
    }
    __pipeline_commit();
  };
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    fetch(step + 1);
    __pipeline_wait_prior(kOpen);
    __syncthreads();
    for (int i = t; i < 128; i += 32) to[step * 128 + i] = stages[step % 2][127 - i];
    if (kBarrier) __syncthreads();
  }
}

template <int kOpen, bool kBarrier = true>
bool staged_copy_case() {
  std::vector<float> from = numbers<float>(512, 100), to(512);
  const auto kernel = staged_copy<kOpen, kBarrier>;
  FASTSEG_LAUNCH(kernel, 1, 32, 0, stream, from.data(), to.data(), 390);
  for (int i = 390; i < 512; ++i) from[i] = 0;
  bool right = true;
  for (int i = 0; i < 512; ++i) right &= to[i / 128 * 128 + 127 - i % 128] == from[i];
  return right;
}

// One warp: (16, K) by (K, 8), the fragments filled by the PTX ISA's tables; or B's as if it lay
// the other way round.
template <simt::Multiplicand kType, typename T, bool kWrongFragment>
__global__ void warp_product(const T* a, const T* b, float* d) {
  constexpr int kDepth = kType == simt::Multiplicand::kTf32 ? 8 : 16;
  const int group = threadIdx.x / 4, member = threadIdx.x % 4;
  T a_parts[16 / sizeof(T)], b_parts[8 / sizeof(T)];
  if (kDepth == 8) {
    for (int i = 0; i < 4; ++i) a_parts[i] = a[(group + i % 2 * 8) * 8 + member + i / 2 * 4];
    for (int i = 0; i < 2; ++i) b_parts[i] = b[(member + i * 4) * 8 + group];
  } else if (kWrongFragment) {
    for (int i = 0; i < 4; ++i)
      b_parts[i % int(8 / sizeof(T))] = b[(group + i / 2 * 8) * 8 + member];
    for (int i = 0; i < 8; ++i) a_parts[i % int(16 / sizeof(T))] = a[group * kDepth + i];
  } else {
    for (int i = 0; i < 8; ++i) {
      const int row = i % 4 < 2 ? group : group + 8, column = member * 2 + i % 2 + (i < 4 ? 0 : 8);
      a_parts[i % int(16 / sizeof(T))] = a[row * kDepth + column];
    }
    for (int i = 0; i < 4; ++i) {
      b_parts[i % int(8 / sizeof(T))] = b[(member * 2 + i % 2 + (i < 2 ? 0 : 8)) * 8 + group];
    }
  }
  uint32_t a_registers[4], b_registers[2];
  std::memcpy(a_registers, static_cast<const void*>(a_parts), sizeof(a_registers));
  std::memcpy(b_registers, static_cast<const void*>(b_parts), sizeof(b_registers));
  float sums[4] = {0, 0, 0, 1};
  simt::mma(kType, sums, a_registers, b_registers, sums, simt::Location::here());
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = sums[i];
}

template <simt::Multiplicand kType, typename T, bool kWrongFragment = false>
bool mma_case() {
  constexpr int kDepth = kType == simt::Multiplicand::kTf32 ? 8 : 16;
  const std::vector<float> a = numbers<float>(16 * kDepth, 7), b = numbers<float>(kDepth * 8, 5);
  std::vector<T> a_typed(a.begin(), a.end()), b_typed(b.begin(), b.end());
  std::vector<float> d(128);
  const auto kernel = warp_product<kType, T, kWrongFragment>;
  FASTSEG_LAUNCH(kernel, 1, 32, 0, stream, a_typed.data(), b_typed.data(), d.data());
  bool right = true;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = j % 2 == 1 && i >= 8 ? 1.0f : 0.0f;  // the last of each lane's four
      for (int k = 0; k < kDepth; ++k) sum += a[i * kDepth + k] * b[k * 8 + j];
      right &= d[i * 8 + j] == sum;
    }
  }
  return right;
}

// One warp: four matrices whose rows lie anywhere, and `offset` bytes from where they should.
__global__ void load_four(const uint4* rows, const int* places, int offset, uint32_t* parts) {
  FASTSEG_SHARED(uint4, shared, [33]);
  const int lane = threadIdx.x;
  shared[places[lane]] = rows[lane];
  __syncwarp();
  uint32_t own[4];
  fastseg::load_matrices(reinterpret_cast<const char*>(&shared[places[lane]]) + offset, own);
  for (int i = 0; i < 4; ++i) parts[lane * 4 + i] = own[i];
}

template <int kOffset>
bool load_matrices_case() {
  std::vector<uint4> rows(32);
  std::vector<int> places(32);
  for (unsigned i = 0; i < 32; ++i) {
    rows[i] = {4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3};
    places[i] = static_cast<int>(i * 13 % 32);
  }
  std::vector<uint32_t> parts(128);
  FASTSEG_LAUNCH(load_four, 1, 32, 0, stream, rows.data(), places.data(), kOffset, parts.data());
  bool right = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned i = 0; i < 4; ++i) {
      right &= parts[lane * 4 + i] == 4 * (8 * i + lane / 4) + lane % 4;
    }
  }
  return right;
}

// Votes, matches, and the two halves of a warp on their own ways.
__global__ void votes(uint32_t* results) {
  const int lane = threadIdx.x;
  results[lane] = __ballot_sync(0xffffffffu, lane % 3 == 0);
  results[32 + lane] = __any_sync(0xffffffffu, lane == 7) + 2 * __all_sync(0xffffffffu, lane < 31);
  results[64 + lane] = __match_any_sync(0xffffffffu, lane / 5);
  if (lane < 16) {
    results[96 + lane] = __shfl_xor_sync(0x0000ffffu, lane, 1);
  } else {
    results[96 + lane] = __shfl_sync(0xffff0000u, lane, 31);
    __syncwarp(0xffff0000u);
  }
  __syncwarp();
  results[128 + lane] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
}

bool votes_case() {
  std::vector<uint32_t> results(160);
  FASTSEG_LAUNCH(votes, 1, 32, 0, stream, results.data());
  bool right = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    const uint32_t same = lane / 5 == 6 ? 0x3u << 30 : 0x1fu << lane / 5 * 5;
    right &= results[lane] == 0x49249249u && results[32 + lane] == 1 && results[64 + lane] == same;
    right &= results[96 + lane] == (lane < 16 ? lane ^ 1 : 31);
    right &= results[128 + lane] == (lane % 8 < 5 ? lane + 3 : lane);
  }
  return right;
}

// Barriers that count, after some threads have ended; fences between blocks.
__global__ void predicates(int* results, int* sum, int* arrived) {
  const int t = threadIdx.x;
  if (t >= 40) return;
  results[t] = __syncthreads_count(t % 2) + 100 * __syncthreads_or(t == 39) +
               200 * __syncthreads_and(t < 39);
  if (t > 0) return;
  sum[1 + blockIdx.x] = results[0];
  __threadfence();
  if (atomicAdd(arrived, 1) != static_cast<int>(gridDim.x) - 1) return;
  __threadfence();
  for (unsigned i = 0; i < gridDim.x; ++i) sum[0] += sum[1 + i];  // by the last block to arrive
}

bool predicates_case() {
  std::vector<int> results(3 * 40), sum(4);
  int arrived = 0;
  const auto kernel = [&] { predicates(results.data() + blockIdx.x * 40, sum.data(), &arrived); };
  simt::launch({"predicates", 3, 64, 0, stream}, kernel);
  return results == std::vector<int>(120, 120) && sum[0] == 360;
}

// Look-back: a block waits for what those that began before it have published.
__global__ void look_back(const int* input, int* output, unsigned* turns, unsigned* published) {
  FASTSEG_SHARED(unsigned, turn, );
  if (threadIdx.x == 0) turn = atomicAdd(turns, 1u);
  __syncthreads();
  if (threadIdx.x > 0) return;
  unsigned before = 0;
  if (turn > 0) {
    while ((before = __ldcv(&published[turn - 1])) == 0) {
    }
  }
  atomicExch(&published[turn], before + input[turn]);
  output[turn] = static_cast<int>(before);
}

bool look_back_case() {
  const std::vector<int> input(9, 3);
  std::vector<int> output(9);
  std::vector<unsigned> published(9);
  unsigned turns = 0;
  FASTSEG_LAUNCH(look_back, 9, 32, 0, stream, input.data(), output.data(), &turns,
                 published.data());
  bool right = true;
  for (int i = 0; i < 9; ++i) right &= output[i] == 3 * i;
  return right;
}

// The runtime's functions take the caller's stream, and while it is captured nobody may wait for
// it.
bool streams_case() {
  int from = 1, to = 0;
  const auto copy = [&](cudaStream_t on) {
    return cudaMemcpyAsync(&to, &from, sizeof(to), cudaMemcpyDeviceToHost, on);
  };
  bool right =
      copy(stream) == cudaSuccess && to == 1 && cudaStreamSynchronize(stream) == cudaSuccess;
  right &= copy(nullptr) == cudaErrorInvalidResourceHandle;
  right &= cudaMemsetAsync(&to, 0, sizeof(to), nullptr) == cudaErrorInvalidResourceHandle;
  right &= cudaStreamSynchronize(nullptr) == cudaErrorInvalidResourceHandle;
  simt_set_capturing(true);
  right &= cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported;
  simt_set_capturing(false);
  return right;
}

// Half precision by CUDA's own headers, in pairs.
__global__ void halves(const __half* input, __nv_bfloat16* output) {
  const auto pair = fastseg::load_pack<2>(input + 2 * threadIdx.x);
  fastseg::Pack<__nv_bfloat16, 2> result;
  for (int i = 0; i < 2; ++i) result[i] = __float2bfloat16(__half2float(pair[i]) * 1.5f);
  fastseg::store_pack(result, output + 2 * threadIdx.x);
}

bool halves_case() {
  const std::vector<float> values = numbers<float>(64, 50);
  const std::vector<__half> input(values.begin(), values.end());
  std::vector<__nv_bfloat16> output(64);
  FASTSEG_LAUNCH(halves, 1, 32, 0, stream, input.data(), output.data());
  bool right = true;
  for (int i = 0; i < 64; ++i) right &= __bfloat162float(output[i]) == values[i] * 1.5f;
  return right;
}

// What follows has one bug each.

__global__ void missing_syncwarp(int* output) {
  FASTSEG_SHARED(int, value, );
  if (threadIdx.x == 0) value = 5;
  const int own = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), 0);  // orders no memory
  output[threadIdx.x] = value + own;
}

__global__ void race_between_blocks(int* sum) {
  if (threadIdx.x == blockIdx.x % 32) *sum += 1;
}

__global__ void read_beyond(const float* input, float* output, int count) {
  output[threadIdx.x] = input[threadIdx.x + 1 - count / 1000];
}

__global__ void uninitialised_shared(float* output) {
  FASTSEG_SHARED(float, values, [32]);
  if (threadIdx.x != 9) values[threadIdx.x] = 1;
  __syncthreads();
  output[threadIdx.x] = values[(threadIdx.x + 1) % 32];
}

// What another block left there is not there.
__global__ void shared_of_another_block(float* output) {
  FASTSEG_SHARED(float, values, [32]);
  if (threadIdx.x / 16 == blockIdx.x) values[threadIdx.x] = 1;
  output[blockIdx.x * 32 + threadIdx.x] = values[threadIdx.x];
}

__global__ void beyond_static_shared(float* output) {
  FASTSEG_SHARED(float, values, [32]);
  values[threadIdx.x] = 1;
  __syncthreads();
  output[threadIdx.x] = values[threadIdx.x + 1];
}

__global__ void misaligned_store(const float* input, float* output) {
  fastseg::store_pack(fastseg::load_pack<2>(input), output + 1);
}

__global__ void misaligned_pack(const float* input, float* output) {
  output[0] = fastseg::load_pack<4>(input + 1)[0];
}

__global__ void misaligned_float4(const float* input, float* output) {
  output[0] = reinterpret_cast<const float4*>(input + 1)->x;
}

__global__ void absent_lane(int* output) {
  if (threadIdx.x < 16) output[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void lanes_that_never_come(int* output) {
  if (threadIdx.x < 16) output[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}

__global__ void lane_outside_its_mask(int* output) {
  output[threadIdx.x] = __ballot_sync(0x0000ffffu, 1);
}

__global__ void lanes_at_different_shuffles(int* output) {
  if (threadIdx.x < 16) {
    output[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
  } else {
    output[threadIdx.x] = __shfl_sync(0xffffffffu, 2, 0);
  }
}

// A shuffle in a branch that half of its mask takes: the others are at a vote, or gone.
__global__ void divergent_shuffle(int* output) {
  if (threadIdx.x % 2 == 0) {
    output[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 2);
  } else {
    output[threadIdx.x] = __any_sync(0xffffffffu, 1);
  }
}

__global__ void divergent_mma(int* output) {
  if (threadIdx.x >= 16) return;
  const uint32_t a[4] = {}, b[2] = {};
  float sums[4] = {};
  simt::mma(simt::Multiplicand::kHalf, sums, a, b, sums, simt::Location::here());
  output[threadIdx.x] = static_cast<int>(sums[0]);
}

__global__ void divergent_barrier(int* output) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    output[threadIdx.x] = 1;
    __syncthreads();
  }
}

__global__ void deadlock(int* output) {
  if (threadIdx.x == 3) {
    __syncthreads();
  } else {
    output[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
  }
}

__global__ void misaligned_async_copy(const float* input, float* output) {
  FASTSEG_SHARED(float, values, [8]);
  __pipeline_memcpy_async(values, input + 1, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  output[0] = values[0];
}

// The barrier comes after the copy was issued, and so too late for its source.
__global__ void copy_of_what_is_being_written(float* from, float* to) {
  FASTSEG_SHARED(float, values, [128]);
  const int t = threadIdx.x, next = (t + 1) % 32;
  for (int i = 0; i < 4; ++i) from[4 * t + i] = 1;
  __pipeline_memcpy_async(&values[4 * t], &from[4 * next], 16);
  __pipeline_commit();
  __syncthreads();
  __pipeline_wait_prior(0);
  to[t] = values[4 * t];
}

template <typename Kernel>
bool run_warp(Kernel kernel, const char* name, unsigned blocks = 1) {
  std::vector<int> output(32);
  simt::launch({name, blocks, 32, 0, stream}, [&] { kernel(output.data()); });
  return true;
}

template <typename Kernel>
bool run_floats(Kernel kernel, const char* name) {
  std::vector<float> input(32, 1.0f), output(32);
  simt::launch({name, 1, 32, 0, stream}, [&] { kernel(input.data(), output.data()); });
  return output == input;
}

void no_kernel() {}

#define WARP_CASE(name)                         \
  {                                             \
#name, [] { return run_warp(name, #name); } \
  }
#define FLOAT_CASE(name)                          \
  {                                               \
#name, [] { return run_floats(name, #name); } \
  }
using simt::Multiplicand;

using Cases = std::map<std::string, std::function<bool()>>;

const Cases right_cases = {
    {"block_sum", block_sum_case<true>},
    {"scan", scan_case},
    {"hash", hash_case},
    {"matrix_product", matrix_case<8>},
    {"staged_copy", staged_copy_case<1>},
    {"load_matrices", load_matrices_case<0>},
    {"mma_half", mma_case<Multiplicand::kHalf, __half>},
    {"mma_bfloat16", mma_case<Multiplicand::kBFloat16, __nv_bfloat16>},
    {"mma_tf32", mma_case<Multiplicand::kTf32, float>},
    {"votes", votes_case},
    {"predicates", predicates_case},
    {"look_back", look_back_case},
    {"streams", streams_case},
    {"halves", halves_case},
};

const Cases wrong_cases = {
    {"missing_syncthreads", block_sum_case<false>},
    {"race_between_blocks", [] { return run_warp(race_between_blocks, "race_between_blocks", 2); }},
    {"shared_out_of_bounds", matrix_case<9>},
    {"global_out_of_bounds",
     [] {
       return run_floats([](const float* in, float* out) { read_beyond(in, out, 32); }, "beyond");
     }},
    {"uninitialised_shared",
     [] {
       return run_floats([](const float*, float* out) { uninitialised_shared(out); }, "shared");
     }},
    {"shared_of_another_block",
     [] {
       std::vector<float> output(64);
       FASTSEG_LAUNCH(shared_of_another_block, 2, 32, 0, stream, output.data());
       return output == std::vector<float>(64, 1.0f);
     }},
    {"beyond_static_shared",
     [] {
       return run_floats([](const float*, float* out) { beyond_static_shared(out); }, "shared");
     }},
    {"missing_wait", staged_copy_case<2>},
    {"stage_filled_too_early", staged_copy_case<1, false>},
    {"copy_of_what_is_being_written",
     [] {
       std::vector<float> from(128), to(32);
       FASTSEG_LAUNCH(copy_of_what_is_being_written, 1, 32, 0, stream, from.data(), to.data());
       return to == std::vector<float>(32, 1.0f);
     }},
    {"wrong_fragment", mma_case<Multiplicand::kHalf, __half, true>},
    WARP_CASE(missing_syncwarp),
    FLOAT_CASE(misaligned_pack),
    FLOAT_CASE(misaligned_store),
    FLOAT_CASE(misaligned_float4),
    FLOAT_CASE(misaligned_async_copy),
    {"misaligned_matrix", load_matrices_case<8>},
    WARP_CASE(absent_lane),
    WARP_CASE(lanes_that_never_come),
    WARP_CASE(lane_outside_its_mask),
    WARP_CASE(lanes_at_different_shuffles),
    WARP_CASE(divergent_shuffle),
    WARP_CASE(divergent_mma),
    WARP_CASE(divergent_barrier),
    WARP_CASE(deadlock),
    {"large_block",
     [] {
       FASTSEG_LAUNCH(no_kernel, 1, 1025, 0, stream);
       return true;
     }},
    {"large_shared",
     [] {
       FASTSEG_LAUNCH(no_kernel, 1, 32, 48 * 1024 + 1, stream);
       return true;
     }},
    {"empty_grid",
     [] {
       FASTSEG_LAUNCH(no_kernel, 0, 32, 0, stream);
       return true;
     }},
    {"tall_grid",
     [] {
       FASTSEG_LAUNCH(no_kernel, dim3(1, 65536), 32, 0, stream);
       return true;
     }},
    {"other_stream",
     [] {
       FASTSEG_LAUNCH(no_kernel, 1, 32, 0, nullptr);
       return true;
     }},
};

}  // namespace

int main(int count, char** arguments) {
  const std::string name = count > 1 ? arguments[1] : "";
  if (count > 2 && !simt_set_order(arguments[2], 1)) return 2;
  if (count > 3 && !simt_set_copies(arguments[3])) return 2;
  if (name == "all") {
    for (const auto& [each, run] : right_cases) {
      std::printf("%s: %s\n", each.c_str(), run() ? "right" : "wrong");
    }
    return 0;
  }
  const auto found = wrong_cases.find(name);
  if (found == wrong_cases.end()) return 2;
  try {
    std::puts(found->second() ? "right" : "wrong");
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
    return 3;
  }
  return 0;
}
