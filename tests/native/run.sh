#!/usr/bin/env bash
# Tests of the kernels without Python, on processors that this machine may only emulate.
#
#   tests/native/run.sh native|sanitized|nehalem|aarch64 [OBJECTS]
#
#   native     x86-64, every instruction set the machine has, and the thread pool
#   sanitized  the same under AddressSanitizer and UndefinedBehaviorSanitizer; no OBJECTS
#   nehalem    the same program on an emulated x86-64 without AVX: baseline must be chosen, and run
#   aarch64    cross-compiled and emulated
#
# OBJECTS is a folder of build/ in which `pip install` left the kernels' object files; without it
# they are compiled here, with $OPTIMIZE (-O3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=$1
objects=${2:-}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cxx=${CXX:-g++}
link=()
if [[ $target == aarch64 ]]; then
  cxx=aarch64-linux-gnu-g++
  link=(-static)
fi
flags=(-std=c++17 "${OPTIMIZE:--O3}" -fvisibility=hidden -Wall)
kernel_flags=(-fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi)
if [[ $target == sanitized ]]; then
  # Where sanitizers are on, GCC loses sight of what is initialised.
  flags+=(-Wno-maybe-uninitialized -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all)
fi
sets=(baseline)
[[ $target == aarch64 ]] || sets=(baseline avx2 avx512)

# The flags of an instruction set; setup.py has the same.
isa_flags() {
  case $1 in
    avx2) echo -mavx2 -mfma -mf16c ;;
    avx512)
      echo -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=256
      ;;
  esac
}

common_sources() {
  find csrc/common -name '*.cpp' ! -name '*_door.cpp' ! -name thread_pool.cpp
}

compile() {
  local source set
  for source in $(common_sources); do
    "$cxx" "${flags[@]}" -c "$source" -o "$folder/$(basename "$source" .cpp).o"
  done
  for set in "${sets[@]}"; do
    local running=()
    for source in csrc/*/cpu/*_cpu.cpp; do
      # shellcheck disable=SC2046
      "$cxx" "${flags[@]}" "${kernel_flags[@]}" $(isa_flags "$set") -DFASTSEG_ISA="$set" \
        -c "$source" -o "$folder/$(basename "$source" .cpp).$set.o" &
      running+=($!)
    done
    for job in "${running[@]}"; do wait "$job"; done
  done
}

# Weakest first, as in setup.py.
object_files() {
  local set
  if [[ -n $objects ]]; then
    find "$objects/common/csrc/common" -name '*.o'
    for set in "${sets[@]}"; do find "$objects/$set" -name '*_cpu.o'; done
  else
    ls "$folder"/*.o | grep -v '_cpu\.'
    for set in "${sets[@]}"; do ls "$folder"/*_cpu."$set".o; done
  fi
}

[[ -n $objects ]] || compile
# shellcheck disable=SC2046
"$cxx" "${flags[@]}" tests/native/{kernel,network}_test.cpp $(object_files) -pthread "${link[@]}" \
  -o "$folder/kernel_test"
case $target in
  native | sanitized)
    "$cxx" "${flags[@]}" tests/native/thread_pool_test.cpp csrc/common/thread_pool.cpp -pthread \
      -o "$folder/thread_pool_test"
    "$folder/kernel_test"
    "$folder/thread_pool_test"
    ;;
  nehalem) qemu-x86_64-static -cpu Nehalem "$folder/kernel_test" baseline ;;
  aarch64) qemu-aarch64-static "$folder/kernel_test" baseline ;;
esac
