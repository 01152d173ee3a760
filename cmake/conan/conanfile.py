# SPDX-License-Identifier: Apache-2.0
"""The Conan 2 recipe of the tree that it stands in: conan create cmake/conan -s compiler.cppstd=20"""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load


class HiggsRecipe(ConanFile):
    name = "higgs"
    description = "Rounds the weights of large language models to 2-8 bits and multiplies with the packed codes"
    license = "Apache-2.0"
    topics = ("quantization", "llm", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        config = load(self, os.path.join(self._root, "include", "higgs", "config.hpp"))
        self.version = ".".join(re.findall(r"#define HIGGS_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", config))

    def export_sources(self):
        for pattern in ["CMakeLists.txt", "LICENSE", "cmake/*.in", "include/*"]:
            copy(self, pattern, self._root, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ["BUILD_TESTS", "BUILD_EXAMPLES", "CUDA"]:
            toolchain.cache_variables[f"HIGGS_{part}"] = "OFF"
        toolchain.generate()

    def package(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        # find_package reads the package's own files, which know nvcc's options too.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "higgs")]
        self.cpp_info.set_property("pkg_config_name", "higgs")
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        if self.settings.os in ["Linux", "FreeBSD"]:
            self.cpp_info.system_libs = ["pthread"]
