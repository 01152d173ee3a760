// SPDX-License-Identifier: Apache-2.0
// The files that belong to a model, as far as their names tell.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

namespace higgs::model {

/// The names of what lies in a model's folder beside its weights: configuration and tokenizer.
std::span<const char* const> companion_names() noexcept;
/// The files that are read of the model at `path`, a file or a folder, as far as names tell: other weights of the folder
/// may be parts of it. Of any other file, the file alone.
std::vector<std::filesystem::path> model_files(const std::filesystem::path& path);

}  // namespace higgs::model
