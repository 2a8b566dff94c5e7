/**
 * What it takes to boot a stock Linux on a software KVM, which emulates kernel mode at one or two million instructions
 * a second: a CPU model it can run, slower guest time, and a command line that spares it work.
 */
import { probeKvm } from '../kvm/probe.ts';

/** Options for `Vm.create` and the kernel command line. */
export interface SoftwareKvmProfile {
  /** False on a host with VT-x/AMD-V: nothing below is needed. */
  slow: boolean;
  /** One sentence for the user. */
  why: string;
  /** For {@link VmConfig.cpu}. */
  cpu: string;
  /** For {@link VmConfig.timeScale}. */
  timeScale: number;
  /** To be appended to the kernel's command line. */
  cmdline: string;
}

/** A 100 to 250 Hz tick costs more instructions than a software KVM runs in its period; 20 times slower it is 5 %. */
const TIME_SCALE = 20;

/**
 * Linux parameters that save instructions or avoid what such a KVM lacks: no crypto self-tests (two thirds of a boot),
 * no PCI scan, no delay-loop calibration, no page clearing beyond need, no speculation mitigations, no walk over all page
 * tables for writable code.
 */
const CMDLINE =
  'cryptomgr.notests pci=off lpj=5200000 tsc=reliable no_timer_check mitigations=off init_on_alloc=0 rodata=off';

/**
 * Initialisation that a shell does not need and that takes longest here, found by sampling RIP over a boot: ftrace looks
 * up the symbol of each of its 37,000 records and prepares its files; BPF checks the kernel's type information as soon as
 * somebody registers a function with it.
 */
const INITCALL_BLACKLIST = [
  'ftrace_check_for_weak_functions',
  'trace_eval_init',
  'tracer_init_tracefs',
  'cubictcp_register',
  'bpf_tcp_ca_kfunc_init',
  'kfunc_init',
  'bpf_prog_test_run_init',
  'bpf_key_sig_kfuncs_init',
  'bpf_rstat_kfunc_init',
];

/**
 * The profile for this host.
 * @throws the errors of `KvmSystem.open`
 */
export function softwareKvmProfile(): SoftwareKvmProfile {
  const { software, kernelMips, lacking, forced } = probeKvm();
  if (!software)
    return { slow: false, why: 'KVM runs guests on the processor', cpu: 'host', timeScale: 1, cmdline: '' };
  const rate = kernelMips.toFixed(1);
  return {
    slow: true,
    why: `this host's KVM has no VT-x/AMD-V behind it and emulates the guest's kernel at ${rate} million instructions a second`,
    cpu: 'x86-64-v1',
    timeScale: TIME_SCALE,
    // The guest's kernel must be told not to use what it sees but KVM cannot emulate.
    cmdline: `${CMDLINE} initcall_blacklist=${INITCALL_BLACKLIST.join(',')} clearcpuid=${lacking.filter((name) => forced.includes(name)).join(',')}`,
  };
}
