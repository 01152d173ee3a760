// SPDX-License-Identifier: Apache-2.0
#include "sm90.cuh"

namespace gpu = higgs::gpu;

bool launch_wgmma_for_sm90(const gpu::MatmulTask<higgs::Half, float>& task,
                           const gpu::detail::WgmmaSplit& split, std::byte* workspace,
                           const gpu::Device& device) {
  return launch_wgmma_inlined(task, split, workspace, device);
}
