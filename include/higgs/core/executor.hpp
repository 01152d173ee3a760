// SPDX-License-Identifier: Apache-2.0
// Where threads come from: the caller passes an Executor; the default one uses all cores and never nests.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#if HIGGS_DEFINITIONS
#  include <atomic>
#  include <chrono>
#  include <condition_variable>
#  include <exception>
#  include <mutex>
#  include <thread>
#  include <vector>
#endif

namespace higgs {
inline namespace v0 {

/// A call to one numbered task, by reference: two words, no allocation. The callable must outlive it.
class TaskRef {
 public:
  template <class F>
    requires(std::is_invocable_v<F&, std::int64_t> && !std::is_same_v<std::remove_cvref_t<F>, TaskRef>)
  TaskRef(F&& task) noexcept
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(task)))),
        call_([](void* object, std::int64_t index) {
          (*static_cast<std::remove_reference_t<F>*>(object))(index);
        }) {}
  void operator()(std::int64_t index) const { call_(object_, index); }

 private:
  void* object_;
  void (*call_)(void*, std::int64_t);
};

/// Runs numbered tasks. Derive from it to plug in a thread pool of your own.
class Executor {
 public:
  virtual ~Executor() = default;

  /// How many tasks may run at once; at least 1.
  virtual int width() const noexcept = 0;

  /// Calls task(0) ... task(count - 1) once each, in any order and possibly at once, and returns when all are done.
  /// Rethrows the first exception; the tasks not begun by then may be left out.
  virtual void run(std::int64_t count, TaskRef task) = 0;
};

/// Runs every task on the calling thread, in order.
class SerialExecutor final : public Executor {
 public:
  int width() const noexcept override { return 1; }
  void run(std::int64_t count, TaskRef task) override {
    for (std::int64_t i = 0; i < count; ++i) task(i);
  }
};

/// A fixed set of threads that wait for work, for some microseconds awake and then asleep; the caller's thread works
/// too, and waits for no thread that is not awake yet. One `run` at a time: a second caller waits its turn. A task that
/// calls `run` again runs that work itself, in order.
class ThreadPool final : public Executor {
 public:
  /// `threads` counts the caller's; 0 means one for each core.
  explicit ThreadPool(int threads = 0);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() override;

  int width() const noexcept override;
  void run(std::int64_t count, TaskRef task) override;

 private:
  class Threads;
  std::unique_ptr<Threads> threads_;
};

/// The pool that is used where the caller passes none: one thread for each core, made at the first call.
HIGGS_INLINE Executor& default_executor();

/// Splits [0, count) into runs of `grain` (the last may be shorter) and calls body(begin, end) for each.
/// The split depends on `count` and `grain` alone, so results cannot depend on the number of threads.
template <class Body>
void parallel_for(Executor& executor, std::int64_t count, std::int64_t grain, Body&& body) {
  expects(grain > 0, "higgs::parallel_for: grain must be positive");
  executor.run((count + grain - 1) / grain,
               [&](std::int64_t run) { body(run * grain, std::min(count, (run + 1) * grain)); });
}

#if HIGGS_DEFINITIONS

/// The threads, and what they share with the caller.
class ThreadPool::Threads {
 public:
  explicit Threads(int count) {
    if (count <= 0) count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    for (int i = 1; i < count; ++i) workers_.emplace_back([this] { serve(); });
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    begin_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int width() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  void run(std::int64_t count, TaskRef task) {
    if (count <= 0) return;
    if (workers_.empty() || count == 1 || inside()) {
      for (std::int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    const std::lock_guard turn(turn_);
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      open_ = true;
      error_ = nullptr;
      generation_.store(generation_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }
    begin_.notify_all();
    work();
    {
      const std::lock_guard lock(mutex_);
      open_ = false;
    }
    const auto ended = [this] { return working_.load(std::memory_order_acquire) == 0; };
    spin_until(ended);
    std::unique_lock lock(mutex_);
    end_.wait(lock, ended);
    task_ = nullptr;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  static bool& inside() noexcept {
    static thread_local bool flag = false;
    return flag;
  }

  void work() noexcept {
    inside() = true;
    for (std::int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      try {
        (*task_)(i);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_.store(count_, std::memory_order_relaxed);
      }
    }
    inside() = false;
  }

  // The next run of a forward pass comes within microseconds, sooner than a sleeping thread wakes up.
  template <class Condition>
  static void spin_until(Condition&& condition) noexcept {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (!condition() && std::chrono::steady_clock::now() < end)
      for (int i = 0; i < 32 && !condition(); ++i) {
#  if defined(__x86_64__) && defined(__GNUC__)
        __builtin_ia32_pause();
#  endif
      }
  }

  void serve() {
    std::uint64_t seen = 0;
    for (;;) {
      const auto begun = [&] { return generation_.load(std::memory_order_acquire) != seen; };
      spin_until(begun);
      {
        std::unique_lock lock(mutex_);
        begin_.wait(lock, [&] { return stopping_ || begun(); });
        if (stopping_) return;
        seen = generation_.load(std::memory_order_relaxed);
        if (!open_) continue;  // woke up too late
        working_.fetch_add(1, std::memory_order_relaxed);
      }
      work();
      // The caller may return as soon as it reads 0, but not destroy the pool: its destructor joins this thread.
      if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard lock(mutex_);
        end_.notify_one();
      }
    }
  }

  std::vector<std::thread> workers_;
  std::mutex turn_;   // held for the whole of one run
  std::mutex mutex_;  // guards what follows
  std::condition_variable begin_, end_;
  const TaskRef* task_ = nullptr;
  std::int64_t count_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::atomic<int> working_{0};  // threads of the pool that take part in this run
  bool open_ = false;            // whether more may
  std::atomic<std::uint64_t> generation_{0};
  bool stopping_ = false;
  std::exception_ptr error_;
};

HIGGS_INLINE ThreadPool::ThreadPool(int threads) : threads_(std::make_unique<Threads>(threads)) {}
HIGGS_INLINE ThreadPool::~ThreadPool() = default;
HIGGS_INLINE int ThreadPool::width() const noexcept { return threads_->width(); }
HIGGS_INLINE void ThreadPool::run(std::int64_t count, TaskRef task) { threads_->run(count, task); }

HIGGS_INLINE Executor& default_executor() {
  static ThreadPool pool;
  return pool;
}

#endif

}  // namespace v0
}  // namespace higgs
