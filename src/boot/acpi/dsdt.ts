/** The DSDT: what devices the board has that the guest cannot find by itself (ACPI 6.5 section 5.2.11.1). */
import { S5_SLEEP_TYPE } from '../../devices/acpi/pm.ts';
import {
  type Aml,
  arg,
  device,
  eisaId,
  integer,
  method,
  name,
  namePath,
  packageOf,
  scope,
  store,
  string,
} from './aml.ts';
import {
  busNumbers,
  interrupt,
  ioPorts,
  ioWindow,
  irq,
  memory32Fixed,
  memoryWindow,
  memoryWindow64,
  resourceTemplate,
} from './resources.ts';
import type { Ecam } from './tables.ts';

/** A range of addresses, both ends included. */
export interface AddressWindow {
  readonly first: number;
  readonly last: number;
}

/** A PCI host and what is behind it. */
export interface PciOptions {
  /** Windows for memory BARs, below and above 4 GiB. */
  readonly mmio: AddressWindow;
  readonly mmio64?: AddressWindow;
  /** Where its configuration space lies in memory; not there when absent. */
  readonly ecam?: Ecam;
  /** Interrupts INTA to INTD of devices: slot, pin (0 to 3) and the level-triggered GSI that it is wired to. */
  readonly routes?: readonly { readonly slot: number; readonly pin: number; readonly gsi: number }[];
}

/** A virtio device's registers and its edge-triggered interrupt. */
export interface VirtioMmioPlace {
  readonly address: number;
  readonly length: number;
  readonly gsi: number;
}

/** What the DSDT describes. */
export interface DsdtOptions {
  /** 16550A serial ports, COM1 first. */
  readonly serial?: readonly { readonly port: number; readonly irq: number }[];
  /** An 8042 with a keyboard. */
  readonly keyboard?: boolean;
  /** First of the 12 ports of fw_cfg. */
  readonly fwCfgPort?: number;
  /** Port of pvpanic, where a guest reports that its kernel panicked. */
  readonly panicPort?: number;
  /** No PCI host when absent. */
  readonly pci?: PciOptions;
  /** Virtio devices behind MMIO registers. */
  readonly virtioMmio?: readonly VirtioMmioPlace[];
  /** Ports and registers that belong to the board itself, so that the guest gives them to nobody. */
  readonly boardPorts?: readonly { readonly port: number; readonly length: number }[];
  readonly boardMemory?: readonly { readonly address: number; readonly length: number }[];
}

/** Bytes of configuration space of a bus. */
const ECAM_BUS_SIZE = 2 ** 20;

/** Ports of PCI configuration mechanism #1. */
const PCI_CONFIG_PORT = 0xcf8;
const PCI_CONFIG_LENGTH = 8;

/** The DSDT's AML, without the table header. */
export function buildDsdt(options: DsdtOptions): Aml[] {
  const { serial = [], boardPorts = [], virtioMmio = [], pci } = options;
  // Linux trusts an ECAM only when the board claims its addresses.
  const ecam = pci?.ecam && { address: pci.ecam.address, length: (pci.ecam.lastBus + 1) * ECAM_BUS_SIZE };
  const boardMemory = [...(options.boardMemory ?? []), ...(ecam === undefined ? [] : [ecam])];
  const devices = [
    ...(pci === undefined ? [] : [pciHost(pci)]),
    isa('PIC', 'PNP0000', [ioPorts(0x20, 2), ioPorts(0xa0, 2), irq(2)]),
    isa('TIMR', 'PNP0100', [ioPorts(0x40, 4), irq(0)]),
    isa('RTC', 'PNP0B00', [ioPorts(0x70, 2), irq(8)]),
    isa('SPKR', 'PNP0800', [ioPorts(0x61, 1)]),
    ...(options.keyboard ? [isa('KBD', 'PNP0303', [ioPorts(0x60, 1), ioPorts(0x64, 1), irq(1)])] : []),
    ...serial.map(({ port, irq: line }, i) =>
      device(`COM${i + 1}`, [
        name('_HID', eisaId('PNP0501')),
        name('_UID', integer(i + 1)),
        name('_CRS', resourceTemplate([ioPorts(port, 8), irq(line)])),
      ]),
    ),
    ...(options.fwCfgPort === undefined ? [] : [qemuDevice('FWCF', 'QEMU0002', options.fwCfgPort, 12)]),
    ...(options.panicPort === undefined ? [] : [qemuDevice('PEVT', 'QEMU0001', options.panicPort, 1)]),
    ...virtioMmio.map((place, i) => virtioDevice(place, i)),
    isa('MBRD', 'PNP0C02', [
      ...boardPorts.map(({ port, length }) => ioPorts(port, length)),
      ...boardMemory.map(({ address, length }) => memory32Fixed(address, length)),
    ]),
  ];
  // \_S5: SLP_TYP for PM1a_CNT and PM1b_CNT, two reserved (section 7.4.2).
  const s5 = packageOf([S5_SLEEP_TYPE, S5_SLEEP_TYPE, 0, 0].map(integer));
  // \_PIC is told the interrupt model; whoever debugs a guest can look at it (section 5.8.1).
  const pic = [name('\\PICM', integer(0)), method('\\_PIC', 1, [store(arg(0), namePath('\\PICM'))])];
  return [name('\\_S5', s5), ...pic, scope('\\_SB', devices)];
}

function isa(path: string, id: string, resources: readonly Aml[]): Aml {
  return device(path, [name('_HID', eisaId(id)), name('_CRS', resourceTemplate(resources))]);
}

/** A device of QEMU's, under the identifier that Linux's driver binds to; _STA keeps it out of UIs. */
function qemuDevice(path: string, id: string, port: number, length: number): Aml {
  return device(path, [
    name('_HID', string(id)),
    name('_STA', integer(0x0b)),
    name('_CRS', resourceTemplate([ioPorts(port, length)])),
  ]);
}

/** A virtio-mmio device, under the identifier that Linux's and FreeBSD's drivers bind to. Its DMA is coherent. */
function virtioDevice({ address, length, gsi }: VirtioMmioPlace, index: number): Aml {
  return device(`VR${index.toString(16).toUpperCase().padStart(2, '0')}`, [
    name('_HID', string('LNRO0005')),
    name('_UID', integer(index)),
    name('_CCA', integer(1)),
    name('_CRS', resourceTemplate([memory32Fixed(address, length), interrupt(gsi)])),
  ]);
}

function pciHost({ mmio, mmio64, routes = [] }: PciOptions): Aml {
  return device('PCI0', [
    name('_HID', eisaId('PNP0A03')),
    name('_UID', integer(0)),
    name('_BBN', integer(0)),
    name(
      '_CRS',
      resourceTemplate([
        busNumbers(0, 0xff),
        ioPorts(PCI_CONFIG_PORT, PCI_CONFIG_LENGTH),
        ioWindow(0, PCI_CONFIG_PORT - 1),
        ioWindow(PCI_CONFIG_PORT + PCI_CONFIG_LENGTH, 0xffff),
        memoryWindow(mmio.first, mmio.last),
        ...(mmio64 === undefined ? [] : [memoryWindow64(mmio64.first, mmio64.last)]),
      ]),
    ),
    ...(routes.length === 0 ? [] : [name('_PRT', routingTable(routes))]),
  ]);
}

/** _PRT (section 6.2.13): every function of a slot, its pin, and the GSI itself instead of a link device. */
function routingTable(routes: NonNullable<PciOptions['routes']>): Aml {
  return packageOf(
    routes.map(({ slot, pin, gsi }) => packageOf([slot * 0x10000 + 0xffff, pin, 0, gsi].map(integer))),
  );
}
