// SPDX-License-Identifier: Apache-2.0
// Models in the formats of other libraries: safetensors, GGUF, and the blocks that their tensors are made of.
#pragma once

#include <higgs/store/block_format.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/journal.hpp>
#include <higgs/store/json.hpp>
#include <higgs/store/mapped_file.hpp>
#include <higgs/store/safetensors.hpp>
#include <higgs/store/tensor_source.hpp>
