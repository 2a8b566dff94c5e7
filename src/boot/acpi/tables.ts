/** The fixed-layout ACPI tables (ACPI 6.5 section 5.2), each answered as its bytes with the checksum in place. */
import { Buffer } from 'node:buffer';
import { PM } from '../../devices/acpi/pm.ts';

/** Bytes of the header every table but RSDP and FACS begins with (table 5.4). */
export const HEADER_SIZE = 36;
const OEM_ID = 'TSVISR';
const OEM_TABLE_ID = 'TSVISOR ';
const CREATOR_ID = 'TSVI';
const HEADER_CHECKSUM = 9;

/** Fields of a table at their byte offsets. */
export class TableBytes {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
    this.#view = new DataView(this.bytes.buffer);
  }

  text(offset: number, text: string): this {
    this.bytes.set(Buffer.from(text, 'latin1'), offset);
    return this;
  }
  u8(offset: number, value: number): this {
    this.#view.setUint8(offset, value);
    return this;
  }
  u16(offset: number, value: number): this {
    this.#view.setUint16(offset, value, true);
    return this;
  }
  u32(offset: number, value: number): this {
    this.#view.setUint32(offset, value, true);
    return this;
  }
  u64(offset: number, value: number): this {
    this.#view.setBigUint64(offset, BigInt(value), true);
    return this;
  }
  /** Makes the bytes of [0, length) sum to 0 modulo 256 by the byte at `offset`. */
  checksum(offset: number, length = this.bytes.length): this {
    this.bytes[offset] = 0;
    this.bytes[offset] = -this.bytes.subarray(0, length).reduce((sum, byte) => sum + byte, 0);
    return this;
  }
}

/**
 * A table with its standard header.
 * @param signature four characters
 * @param revision of this table's layout
 * @param fill writes the body; offsets count from the start of the table
 */
export function table(
  signature: string,
  revision: number,
  length: number,
  fill: (table: TableBytes) => void,
): Uint8Array {
  const out = new TableBytes(length)
    .text(0, signature)
    .u32(4, length)
    .u8(8, revision)
    .text(10, OEM_ID)
    .text(16, OEM_TABLE_ID)
    .u32(24, 1)
    .text(28, CREATOR_ID)
    .u32(32, 1);
  fill(out);
  return out.checksum(HEADER_CHECKSUM).bytes;
}

/** Bytes of the Root System Description Pointer, revision 2. */
export const RSDP_SIZE = 36;

/** RSDP (section 5.2.5.3). The first checksum covers the 20 bytes ACPI 1.0 knows. */
export function buildRsdp(rsdt: number, xsdt: number): Uint8Array {
  return new TableBytes(RSDP_SIZE)
    .text(0, 'RSD PTR ')
    .text(9, OEM_ID)
    .u8(15, 2)
    .u32(16, rsdt)
    .u32(20, RSDP_SIZE)
    .u64(24, xsdt)
    .checksum(8, 20)
    .checksum(32).bytes;
}

/** RSDT, 32-bit pointers (section 5.2.7). */
export function buildRsdt(tables: readonly number[]): Uint8Array {
  return table('RSDT', 1, HEADER_SIZE + 4 * tables.length, (out) => {
    for (const [i, address] of tables.entries()) out.u32(HEADER_SIZE + 4 * i, address);
  });
}

/** XSDT, 64-bit pointers (section 5.2.8). */
export function buildXsdt(tables: readonly number[]): Uint8Array {
  return table('XSDT', 1, HEADER_SIZE + 8 * tables.length, (out) => {
    for (const [i, address] of tables.entries()) out.u64(HEADER_SIZE + 8 * i, address);
  });
}

/** Bytes of the FACS, which must lie on a 64-byte boundary. */
export const FACS_SIZE = 64;

/** FACS (section 5.2.10): no header, no checksum. */
export function buildFacs(): Uint8Array {
  return new TableBytes(FACS_SIZE).text(0, 'FACS').u32(4, FACS_SIZE).u8(32, 2).bytes;
}

/** The ACPI PM register block and the interrupt it raises. */
export interface AcpiPm {
  /** First port of the block {@link PM} describes. */
  readonly port: number;
  /** ISA interrupt of the SCI, level, active high. */
  readonly sci: number;
}

/** What the FADT says. */
export interface FadtOptions {
  readonly facs: number;
  readonly dsdt: number;
  readonly pm: AcpiPm;
  /** An 8042 is there. */
  readonly keyboard: boolean;
  /** Local APIC IDs above 254 cannot use logical mode: FORCE_APIC_PHYSICAL_DESTINATION_MODE. */
  readonly physicalApic: boolean;
}

const FADT_SIZE = 276;
/** Reset control register: value 6 is a hard reset. */
const RESET_PORT = 0xcf9;
const RESET_VALUE = 6;
/** CMOS register that holds the century. */
const CENTURY_REGISTER = 0x32;
/** Longer than what the processor may be left in C2 or C3: these states do not exist (table 5.9). */
const NO_C2 = 0xfff;
const NO_C3 = 0xfff;
// IA-PC boot architecture flags, table 5.11.
const LEGACY_DEVICES = 1 << 0;
const HAS_8042 = 1 << 1;
const NO_VGA = 1 << 2;
// Fixed feature flags, table 5.10.
const WBINVD = 1 << 0;
const PROC_C1 = 1 << 2;
const SLP_BUTTON = 1 << 5;
const FIX_RTC = 1 << 6;
const RESET_REG_SUP = 1 << 10;
const FORCE_APIC_PHYSICAL = 1 << 19;

/**
 * FADT of ACPI 6.3 (section 5.2.9). SMI_CMD is 0: the machine is always in ACPI mode. The power button is fixed
 * hardware, there is no sleep button and no RTC wake-up.
 */
export function buildFadt(options: FadtOptions): Uint8Array {
  const { pm } = options;
  const flags = WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | RESET_REG_SUP;
  return table('FACP', 6, FADT_SIZE, (out) => {
    out
      .u32(36, options.facs)
      .u32(40, options.dsdt)
      .u16(46, pm.sci)
      .u32(56, pm.port + PM.PM1A_EVT)
      .u32(64, pm.port + PM.PM1A_CNT)
      .u32(76, pm.port + PM.PM_TMR)
      .u32(80, pm.port + PM.GPE0)
      .u8(88, PM.PM1A_EVT_LEN)
      .u8(89, PM.PM1A_CNT_LEN)
      .u8(91, PM.PM_TMR_LEN)
      .u8(92, PM.GPE0_LEN)
      .u16(96, NO_C2)
      .u16(98, NO_C3)
      .u8(108, CENTURY_REGISTER)
      .u16(109, LEGACY_DEVICES | NO_VGA | (options.keyboard ? HAS_8042 : 0))
      .u32(112, flags | (options.physicalApic ? FORCE_APIC_PHYSICAL : 0))
      .u8(128, RESET_VALUE)
      .u8(131, 3) // minor version
      // X_FIRMWARE_CTRL stays 0: FIRMWARE_CTRL holds the address, and only one of them may (table 5.9).
      .u64(140, options.dsdt)
      .text(268, OEM_TABLE_ID);
    ioRegister(out, 116, RESET_PORT, 8, 1);
    ioRegister(out, 148, pm.port + PM.PM1A_EVT, 32, 2);
    ioRegister(out, 172, pm.port + PM.PM1A_CNT, 16, 2);
    ioRegister(out, 208, pm.port + PM.PM_TMR, 32, 3);
    ioRegister(out, 220, pm.port + PM.GPE0, 32, 1);
  });
}

/**
 * A generic address structure for a port (section 5.2.3.2).
 * @param access 1 byte, 2 word, 3 dword
 */
function ioRegister(out: TableBytes, offset: number, port: number, bits: number, access: number): void {
  out
    .u8(offset, 1)
    .u8(offset + 1, bits)
    .u8(offset + 3, access)
    .u64(offset + 4, port);
}

/** What the MADT says. */
export interface MadtOptions {
  /** Local APIC IDs of the CPUs; the processor UID is the index. */
  readonly apicIds: readonly number[];
  readonly localApic: number;
  readonly ioApic: { readonly id: number; readonly address: number };
  /** ISA interrupt of the SCI. */
  readonly sci: number;
}

// Types of interrupt controller structures, table 5.21.
const LOCAL_APIC = 0;
const IO_APIC = 1;
const INTERRUPT_SOURCE_OVERRIDE = 2;
const LOCAL_APIC_NMI = 4;
const LOCAL_X2APIC = 9;
const LOCAL_X2APIC_NMI = 10;
const PCAT_COMPAT = 1;
const ENABLED = 1;
/** MPS INTI flags: active high, level-triggered (table 5.26). */
const LEVEL_HIGH = 0b1101;
/** IDs from here on need an x2APIC structure; 255 is the broadcast ID. */
const FIRST_X2APIC_ID = 255;

/** MADT (section 5.2.12). ISA interrupts are identity-mapped but for the PIT, which is wired to pin 2. */
export function buildMadt(options: MadtOptions): Uint8Array {
  const { apicIds, ioApic, sci } = options;
  const large = apicIds.some((id) => id >= FIRST_X2APIC_ID);
  const entries = [
    ...apicIds.map((id, uid) => {
      if (id < FIRST_X2APIC_ID && uid < 255) {
        return structure(LOCAL_APIC, 8).u8(2, uid).u8(3, id).u32(4, ENABLED);
      }
      return structure(LOCAL_X2APIC, 16).u32(4, id).u32(8, ENABLED).u32(12, uid);
    }),
    structure(IO_APIC, 12).u8(2, ioApic.id).u32(4, ioApic.address).u32(8, 0),
    structure(INTERRUPT_SOURCE_OVERRIDE, 10).u8(3, 0).u32(4, 2).u16(8, 0),
    structure(INTERRUPT_SOURCE_OVERRIDE, 10).u8(3, sci).u32(4, sci).u16(8, LEVEL_HIGH),
    structure(LOCAL_APIC_NMI, 6).u8(2, 0xff).u16(3, 0).u8(5, 1),
    ...(large ? [structure(LOCAL_X2APIC_NMI, 12).u16(2, 0).u32(4, 0xffffffff).u8(8, 1)] : []),
  ];
  const length = entries.reduce((sum, entry) => sum + entry.bytes.length, HEADER_SIZE + 8);
  return table('APIC', 5, length, (out) => {
    out.u32(36, options.localApic).u32(40, PCAT_COMPAT);
    let at = HEADER_SIZE + 8;
    for (const entry of entries) {
      out.bytes.set(entry.bytes, at);
      at += entry.bytes.length;
    }
  });
}

const MCFG_SIZE = HEADER_SIZE + 24;

/** Where the configuration space of a PCI segment lies in memory. */
export interface Ecam {
  /** Configuration space of bus 0: 1 MiB a bus. */
  readonly address: number;
  /** Last bus, from 0 on. */
  readonly lastBus: number;
}

/** MCFG (PCI Firmware Specification 3.3 section 4.1.2) of segment 0. */
export function buildMcfg({ address, lastBus }: Ecam): Uint8Array {
  return table('MCFG', 1, MCFG_SIZE, (out) => {
    out.u64(HEADER_SIZE + 8, address).u8(HEADER_SIZE + 19, lastBus);
  });
}

function structure(type: number, length: number): TableBytes {
  return new TableBytes(length).u8(0, type).u8(1, length);
}
