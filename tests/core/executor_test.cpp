// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/executor.hpp>

#include <catch2/catch.hpp>

#include <atomic>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

TEST_CASE("every task runs exactly once, for any count and number of threads", "[core][executor]") {
  for (int threads = 1; threads <= 5; ++threads) {
    higgs::ThreadPool pool(threads);
    CHECK(pool.width() == threads);
    for (const std::int64_t count : {0, 1, 2, 3, 7, 100, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      pool.run(count, [&](std::int64_t i) { ++calls[static_cast<std::size_t>(i)]; });
      for (const auto& each : calls) REQUIRE(each == 1);
    }
  }
}

TEST_CASE("the serial executor keeps to the calling thread and to the order", "[core][executor]") {
  higgs::SerialExecutor serial;
  std::vector<std::int64_t> order;
  serial.run(4, [&](std::int64_t i) { order.push_back(i); });
  CHECK(order == std::vector<std::int64_t>{0, 1, 2, 3});
  CHECK(serial.width() == 1);
}

TEST_CASE("a task's exception reaches the caller and the pool goes on working", "[core][executor]") {
  higgs::ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS_WITH(pool.run(20,
                               [](std::int64_t i) {
                                 if (i == 11) throw std::runtime_error("task 11");
                               }),
                      "task 11");
    std::atomic<int> calls = 0;
    pool.run(20, [&](std::int64_t) { ++calls; });
    REQUIRE(calls == 20);
  }
}

TEST_CASE("work inside a task runs on the task's own thread and cannot deadlock", "[core][executor]") {
  higgs::ThreadPool pool(4);
  std::atomic<int> calls = 0, elsewhere = 0;
  pool.run(16, [&](std::int64_t) {
    const std::thread::id outer = std::this_thread::get_id();
    pool.run(16, [&](std::int64_t) {
      ++calls;
      if (std::this_thread::get_id() != outer) ++elsewhere;
    });
  });
  CHECK(calls == 256);
  CHECK(elsewhere == 0);
}

TEST_CASE("several callers may share one pool", "[core][executor]") {
  higgs::ThreadPool pool(3);
  std::atomic<int> calls = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) pool.run(10, [&](std::int64_t) { ++calls; });
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(calls == 2000);
}

TEST_CASE("parallel_for cuts a range the same way for every executor", "[core][executor]") {
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  using Cuts = std::set<std::pair<std::int64_t, std::int64_t>>;
  const auto cuts = [](higgs::Executor& executor, std::int64_t count, std::int64_t grain) {
    std::mutex mutex;
    Cuts seen;
    higgs::parallel_for(executor, count, grain, [&](std::int64_t begin, std::int64_t end) {
      const std::lock_guard lock(mutex);
      seen.emplace(begin, end);
    });
    return seen;
  };
  CHECK(cuts(serial, 10, 4) == Cuts{{0, 4}, {4, 8}, {8, 10}});
  CHECK(cuts(pool, 10, 4) == cuts(serial, 10, 4));
  CHECK(cuts(pool, 0, 4).empty());
  CHECK_THROWS_AS(cuts(serial, 10, 0), higgs::InvalidArgument);
}

TEST_CASE("the default pool uses the machine's cores", "[core][executor]") {
  CHECK(higgs::default_executor().width() ==
        std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
}
