// One fiber per simulated thread: its stack and the switch between it and the scheduler.
#include <stdlib.h>
#include <sys/mman.h>

#include "runtime.h"

// msim_switch(save, load) stores the callee-saved registers on the running stack and its pointer in *save, then
// continues on `load`. A new stack holds the frame that msim_start expects.
#if defined(__x86_64__)
asm(R"(
.text
.globl msim_switch
.type msim_switch,@function
msim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
constexpr int kFrameWords = 8;   // six registers, the return address, and one word that keeps the stack aligned
constexpr int kReturnWord = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl msim_switch
.type msim_switch,%function
msim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
constexpr int kFrameWords = 20;
constexpr int kReturnWord = 11;  // x30
#else
#error "the Metal simulator runs on x86-64 and arm64"
#endif
extern "C" void msim_switch(void** save, void* load);

namespace msim {

namespace {
constexpr size_t kStackBytes = 256 << 10, kGuardBytes = 16384;
char* stacks;
int stack_count;
void* scheduler_stack;

void run_thread() {
  kernel(&current->arguments);
  flush_pending_store();
  current->state = State::done;
  yield();
  abort();  // a finished thread is never resumed
}
}  // namespace

Thread* threads;
int thread_count;
Thread* current;

void prepare_stacks(int count) {
  if (count <= stack_count) return;
  if (stacks) munmap(stacks, kStackBytes * stack_count);
  stacks = static_cast<char*>(mmap(nullptr, kStackBytes * count, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (int i = 0; i < count; i++) mprotect(stacks + kStackBytes * i, kGuardBytes, PROT_NONE);
  stack_count = count;
}

bool on_a_stack(const char* p) { return p >= stacks && p < stacks + kStackBytes * stack_count; }

void start_thread(Thread& thread) {
  auto* frame = reinterpret_cast<void**>(stacks + kStackBytes * (thread.id + 1)) - kFrameWords;
  for (int i = 0; i < kFrameWords; i++) frame[i] = nullptr;
  frame[kReturnWord] = reinterpret_cast<void*>(run_thread);
  thread.stack = frame;
  thread.state = State::ready;
}

void resume(Thread& thread) {
  current = &thread;
  msim_switch(&scheduler_stack, thread.stack);
}

void yield() { msim_switch(&current->stack, scheduler_stack); }

}  // namespace msim
