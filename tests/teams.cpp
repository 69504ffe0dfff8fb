// OpenMP's regions by threads that ThreadSanitizer follows: a team is started for every region and joined at its end.
// The compiler's runtime is not instrumented and its threads wait by system calls that the sanitizer does not know, so
// that every region after another would look like a race. Nothing of ours has to be suppressed this way. Only what the
// kernels need is here; a region with anything else does not link.
#include <pthread.h>

#include <cstdlib>
#include <thread>
#include <vector>

#define OURS extern "C" __attribute__((visibility("hidden")))

namespace {

struct Team {
    explicit Team(unsigned threads) : size(threads) { pthread_barrier_init(&barrier, nullptr, threads); }
    ~Team() { pthread_barrier_destroy(&barrier); }
    unsigned size;
    pthread_barrier_t barrier;
};

struct Worker {
    Team *team = nullptr;
    unsigned number = 0;
    bool looped = false;  // in the one loop that a region may have
    long end = 0, chunk = 0, next = 0;
};

thread_local Worker self;

}  // namespace

OURS int omp_get_thread_num() { return (int)self.number; }
OURS int omp_get_num_threads() { return self.team ? (int)self.team->size : 1; }
OURS void GOMP_barrier() { pthread_barrier_wait(&self.team->barrier); }

static void run(void (*body)(void *), void *data, unsigned threads, long end, long chunk) {
    Team team(threads);
    auto work = [&](unsigned number) {
        const Worker before = self;
        self = Worker{&team, number, chunk > 0, end, chunk, number * chunk};
        body(data);
        self = before;
    };
    std::vector<std::thread> others;
    for (unsigned number = 1; number < threads; number++) others.emplace_back(work, number);
    work(0);
    for (std::thread &other : others) other.join();
}

OURS void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned) { run(body, data, threads, 0, 0); }

OURS void GOMP_parallel_loop_nonmonotonic_dynamic(void (*body)(void *), void *data, unsigned threads, long start, long end,
                                                  long step, long chunk, unsigned) {
    if (start != 0 || step != 1) abort();
    run(body, data, threads, end, chunk);
}

// In turn, one of the orders that OpenMP may choose: so all of a team get tasks on a busy machine too, the same ones
// every time, and what one task writes is not thereby seen by the next one.
OURS bool GOMP_loop_nonmonotonic_dynamic_next(long *first, long *last) {
    *first = self.next;
    *last = *first + self.chunk < self.end ? *first + self.chunk : self.end;
    self.next += self.chunk * (long)self.team->size;
    return *first < self.end;
}

OURS bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long *first, long *last) {
    if (start != 0 || step != 1 || self.looped) abort();
    self.looped = true;
    self.end = end, self.chunk = chunk, self.next = self.number * chunk;
    return GOMP_loop_nonmonotonic_dynamic_next(first, last);
}

OURS void GOMP_loop_end_nowait() {}
