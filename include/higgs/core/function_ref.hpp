// SPDX-License-Identifier: Apache-2.0
// A call to any function object, by reference.
#pragma once

#include <higgs/config.hpp>

#include <memory>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace detail {

template <class Signature>
class FunctionRef;

/// Two words, no allocation. The function object must outlive it.
template <class Result, class... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  template <class F>
    requires(std::is_invocable_r_v<Result, const F&, Arguments...> && !std::is_same_v<F, FunctionRef>)
  FunctionRef(const F& function) noexcept
      : object_(static_cast<const void*>(std::addressof(function))),
        call_([](const void* object, Arguments... arguments) -> Result {
          return (*static_cast<const F*>(object))(arguments...);
        }) {}
  Result operator()(Arguments... arguments) const { return call_(object_, arguments...); }

 private:
  const void* object_;
  Result (*call_)(const void*, Arguments...);
};

}  // namespace detail
}  // namespace v0
}  // namespace higgs
