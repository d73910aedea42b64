/* The process that holds a pod's namespaces open: it does nothing until it is told to end. */
#include <signal.h>
#include <unistd.h>

static void end(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    /* Process 1 has no default actions; where a pod shares its process namespace it also inherits the orphans, which
       the kernel collects for whoever ignores SIGCHLD. */
    signal(SIGCHLD, SIG_IGN);
    signal(SIGINT, end);
    signal(SIGTERM, end);
    for (;;) pause();
}
