// SPDX-License-Identifier: Apache-2.0
// Fitting and measuring: tables for codes, the errors they leave, how sensitive a model's layers are, and rounding by the
// second moments of inputs.
#pragma once

#include <higgs/allocate/sensitivity.hpp>
#include <higgs/fit/fit_grid.hpp>
#include <higgs/fit/fit_line.hpp>
#include <higgs/fit/fit_window.hpp>
#include <higgs/fit/gaussian_cloud.hpp>
#include <higgs/fit/measure_grid.hpp>
#include <higgs/round/feedback.hpp>
#include <higgs/round/feedback_quantizer.hpp>
#include <higgs/round/outer_product.hpp>
#include <higgs/round/second_moment.hpp>
