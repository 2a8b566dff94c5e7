/** The devices of a PC, at the addresses and on the interrupts a PC has them. */

import { DEFAULT_PM, PCI_ECAM, PCI_MMIO_WINDOW } from '../boot/acpi/build.ts';
import { AcpiPm, PM } from '../devices/acpi/pm.ts';
import { FW_CFG_SIZE, FwCfg } from '../devices/fw-cfg/fw-cfg.ts';
import { FW_CFG_NB_CPUS, FW_CFG_RAM_SIZE } from '../devices/fw-cfg/keys.ts';
import { A20Gate } from '../devices/legacy/a20.ts';
import { CMOS_SIZE, Cmos } from '../devices/legacy/cmos.ts';
import { DebugConsole } from '../devices/legacy/debug-console.ts';
import { DEBUG_EXIT_SIZE, DebugExit } from '../devices/legacy/debug-exit.ts';
import { I8042, I8042_COMMAND, I8042_DATA } from '../devices/legacy/i8042.ts';
import { Panic } from '../devices/legacy/panic.ts';
import { PIT_SIZE, Pit } from '../devices/legacy/pit.ts';
import { Port61 } from '../devices/legacy/port61.ts';
import { Port92 } from '../devices/legacy/port92.ts';
import { PostCode } from '../devices/legacy/post-code.ts';
import { ResetControl } from '../devices/legacy/reset-control.ts';
import { SERIAL_SIZE, Serial } from '../devices/legacy/serial.ts';
import { PCI_ECAM_OFFSET, PCI_ECAM_SIZE, PCI_HOST_SIZE, PciHost } from '../devices/pci/host.ts';
import { MMIO_HOLE_END } from '../memory/layout.ts';
import { PanicWatch } from './panic-watch.ts';
import { addVirtio } from './virtio.ts';
import type { Vm } from './vm.ts';

/** The first serial port. */
export const COM1 = { port: 0x3f8, irq: 4 } as const;
/** fw_cfg's ports. */
export const FW_CFG_PORT = 0x510;
/** pvpanic's port. */
export const PVPANIC_PORT = 0x505;

const IRQ = { timer: 0, keyboard: 1, rtc: 8 } as const;

/** What the machine needs of its board. */
export interface Board {
  /** Settles when the devices are complete and the guest may run. */
  readonly ready: Promise<void>;
  /** Input for the console. */
  type(bytes: Uint8Array): void;
  sendBreak(): void;
  pressPowerButton(): void;
  /** Message of a panic that the console shows, whether or not its report is complete. */
  readonly panicMessage: string | undefined;
}

/** What the board tells the machine. */
export interface BoardEvents {
  /** Console output; a promise holds the guest's next output back until it settles. */
  onOutput(bytes: Uint8Array): void | Promise<void>;
  /** The guest's kernel has panicked. */
  onPanic(message: string): void;
}

/** Equips a machine with a PC's devices; `undefined` for the bare board. */
export function buildBoard(vm: Vm, events: BoardEvents): Board | undefined {
  const { board, clock, cpus, irqchip, timeScale } = vm.config;
  if (board === 'none') return undefined;
  const above4G = vm.memory.regions.reduce(
    (sum, { gpa, size }) => sum + (gpa >= MMIO_HOLE_END ? size : 0),
    0,
  );
  const a20 = new A20Gate();
  const pm = new AcpiPm();
  const watch = new PanicWatch(events.onPanic);
  const output = (bytes: Uint8Array) => {
    watch.receive(bytes);
    const done = events.onOutput(bytes);
    // How fast the host takes output must not show in a run that shall repeat exactly.
    return clock === 'virtual' ? undefined : done;
  };
  const pending: Uint8Array[] = [];
  const serial = new Serial({ name: 'com1', output, onInputSpace: () => feed() });
  // Input that the serial port has no room for waits here for the guest to read.
  const feed = () => {
    while (pending.length > 0) {
      const accepted = serial.receive(pending[0]);
      if (accepted < pending[0].length) {
        pending[0] = pending[0].subarray(accepted);
        return;
      }
      pending.shift();
    }
  };

  vm.addDevice(serial, { pio: [{ base: COM1.port, size: SERIAL_SIZE }], irq: [COM1.irq] });
  vm.addDevice(new I8042(a20), {
    pio: [
      { base: 0x60, size: 1, offset: I8042_DATA },
      { base: 0x64, size: 1, offset: I8042_COMMAND },
    ],
    irq: [IRQ.keyboard],
  });
  vm.addDevice(new Cmos({ ramBelow4G: vm.memory.size - above4G, ramAbove4G: above4G }), {
    pio: [{ base: 0x70, size: CMOS_SIZE }],
    irq: [IRQ.rtc],
  });
  if (timeScale !== 1 || irqchip === 'split' || vm.accel.engine === 'tcg') {
    // A kernel's PIT runs in the host's time and needs its PIC and I/O APIC; tcg has none.
    const pit = new Pit();
    vm.addDevice(pit, { pio: [{ base: 0x40, size: PIT_SIZE }], irq: [IRQ.timer] });
    vm.addDevice(new Port61(pit), { pio: [{ base: 0x61, size: 1 }] });
  }
  vm.addDevice(new PostCode(), { pio: [{ base: 0x80, size: 1 }] });
  vm.addDevice(new Port92(a20), { pio: [{ base: 0x92, size: 1 }] });
  vm.addDevice(new DebugConsole(output), { pio: [{ base: 0xe9, size: 1 }] });
  vm.addDevice(new DebugExit(), { pio: [{ base: 0xf4, size: DEBUG_EXIT_SIZE }] });
  vm.addDevice(new Panic(), { pio: [{ base: PVPANIC_PORT, size: 1 }] });
  vm.addDevice(fwCfg(cpus, vm.memory.size), { pio: [{ base: FW_CFG_PORT, size: FW_CFG_SIZE }] });
  vm.addDevice(pm, { pio: [{ base: DEFAULT_PM.port, size: PM.SIZE }], irq: [DEFAULT_PM.sci] });
  const pciHost = new PciHost(new ResetControl(), PCI_MMIO_WINDOW);
  vm.addDevice(pciHost, {
    pio: [{ base: 0xcf8, size: PCI_HOST_SIZE }],
    mmio: [{ base: PCI_ECAM.address, size: PCI_ECAM_SIZE, offset: PCI_ECAM_OFFSET }],
  });
  const ready = addVirtio(vm, pciHost);

  return {
    ready,
    type(bytes) {
      pending.push(bytes);
      if (pending.length === 1) feed();
    },
    sendBreak: () => serial.sendBreak(),
    pressPowerButton: () => pm.pressPowerButton(),
    get panicMessage() {
      return watch.message;
    },
  };
}

function fwCfg(cpus: number, memory: number): FwCfg {
  const device = new FwCfg();
  const ram = new DataView(new ArrayBuffer(8));
  ram.setBigUint64(0, BigInt(memory), true);
  device.add(FW_CFG_RAM_SIZE, new Uint8Array(ram.buffer));
  device.add(FW_CFG_NB_CPUS, Uint8Array.of(cpus & 0xff, cpus >> 8));
  return device;
}
