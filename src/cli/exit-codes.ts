/** The exit statuses, for `--help`. */

export const EXIT_STATUS_HELP = `Exit status
    0  the guest powered off, reset or halted, or the console's Ctrl-A x ended it
  odd  the guest wrote v to the exit device (port 0xF4): (v << 1) | 1
    2  bad input: options, files, configuration
    4  the host cannot: no KVM, no permission, no memory, a write that failed
    6  the guest crashed: kernel panic, triple fault, an instruction that cannot be run
  124  the time limit ran out
  129  SIGHUP, 130 Ctrl-C (SIGINT), 143 SIGTERM; 141 the reader of the output went away`;
