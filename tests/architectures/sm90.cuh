// SPDX-License-Identifier: Apache-2.0
// A product in an object that is compiled for sm_90, called in a program whose other objects are for sm_90a: nvcc has one
// number for both, so all instances of templates have one name in all objects.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/matmul/wgmma_launch.cuh>

#include <cstddef>

/// launch_wgmma for 4 bits and 128 rows of x at a time, with all that it calls inlined: so what the object compiled
/// meets the functions and variables that the linker takes from another one.
[[gnu::flatten]] static inline bool launch_wgmma_inlined(
    const higgs::gpu::MatmulTask<higgs::Half, float>& task, const higgs::gpu::detail::WgmmaSplit& split,
    std::byte* workspace, const higgs::gpu::Device& device) {
  namespace gpu = higgs::gpu;
  return gpu::detail::launch_wgmma<gpu::TableFormat<4>, gpu::BuiltFor, 2>(task, split, workspace, device,
                                                                          nullptr);
}

/// The same in the object for sm_90: false if it has no code for warpgroup products.
bool launch_wgmma_for_sm90(const higgs::gpu::MatmulTask<higgs::Half, float>& task,
                           const higgs::gpu::detail::WgmmaSplit& split, std::byte* workspace,
                           const higgs::gpu::Device& device);
