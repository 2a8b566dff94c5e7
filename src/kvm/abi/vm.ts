/** Structs of the VM ioctls (Linux include/uapi/linux/kvm.h, x86 flavour). */
import {
  KVM_IOAPIC_NUM_PINS,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_MSR_FILTER_MAX_RANGES,
  PIT_CHANNELS,
} from './constants.ts';
import {
  address,
  array,
  blob,
  listStruct,
  pad,
  type Struct,
  s32,
  s64,
  struct,
  u8,
  u16,
  u32,
  u64,
} from './struct.ts';

/** KVM_SET_USER_MEMORY_REGION; `memory_size` 0 deletes the slot. */
export const kvm_userspace_memory_region = struct('kvm_userspace_memory_region', {
  slot: u32,
  flags: u32,
  guest_phys_addr: address,
  memory_size: address,
  userspace_addr: u64,
});

/** KVM_IRQ_LINE; `irq` is a GSI, on return of KVM_IRQ_LINE_STATUS it holds the status. */
export const kvm_irq_level = struct('kvm_irq_level', { irq: u32, level: u32 });

/** KVM_GET_IRQCHIP; `chip` holds a {@link kvm_pic_state} or a {@link kvm_ioapic_state}. */
export const kvm_irqchip = struct('kvm_irqchip', { chip_id: u32, pad: pad(4), chip: blob(512) });

export const kvm_pic_state = struct('kvm_pic_state', {
  last_irr: u8,
  irr: u8,
  imr: u8,
  isr: u8,
  priority_add: u8,
  irq_base: u8,
  read_reg_select: u8,
  poll: u8,
  special_mask: u8,
  init_state: u8,
  auto_eoi: u8,
  rotate_on_auto_eoi: u8,
  special_fully_nested_mode: u8,
  init4: u8,
  elcr: u8,
  elcr_mask: u8,
});

/** The redirection table entries are 64-bit words in the layout of the 82093AA data sheet. */
export const kvm_ioapic_state = struct('kvm_ioapic_state', {
  base_address: u64,
  ioregsel: u32,
  id: u32,
  irr: u32,
  pad: pad(4),
  redirtbl: array(u64, KVM_IOAPIC_NUM_PINS),
});

export const kvm_pit_channel_state = struct('kvm_pit_channel_state', {
  count: u32,
  latched_count: u16,
  count_latched: u8,
  status_latched: u8,
  status: u8,
  read_state: u8,
  write_state: u8,
  write_latch: u8,
  rw_mode: u8,
  mode: u8,
  bcd: u8,
  gate: u8,
  count_load_time: s64,
});

/** KVM_GET_PIT2 and KVM_SET_PIT2. */
export const kvm_pit_state2 = struct('kvm_pit_state2', {
  channels: array(kvm_pit_channel_state, PIT_CHANNELS),
  flags: u32,
  padding: pad(9 * 4),
});

/** KVM_CREATE_PIT2; `flags` KVM_PIT_SPEAKER_DUMMY makes KVM answer port 0x61. */
export const kvm_pit_config = struct('kvm_pit_config', { flags: u32, pad: pad(15 * 4) });

export const kvm_reinject_control = struct('kvm_reinject_control', { pit_reinject: u8, padding: pad(31) });

/** KVM_GET_CLOCK and KVM_SET_CLOCK; times in nanoseconds. */
export const kvm_clock_data = struct('kvm_clock_data', {
  clock: u64,
  flags: u32,
  pad0: pad(4),
  realtime: u64,
  host_tsc: u64,
  pad: pad(16),
});

export const kvm_irqfd = struct('kvm_irqfd', {
  fd: u32,
  gsi: u32,
  flags: u32,
  resamplefd: u32,
  pad: pad(16),
});

export const kvm_ioeventfd = struct('kvm_ioeventfd', {
  datamatch: u64,
  addr: address,
  len: u32,
  fd: s32,
  flags: u32,
  pad: pad(36),
});

export const kvm_irq_routing_irqchip = struct('kvm_irq_routing_irqchip', { irqchip: u32, pin: u32 });

export const kvm_irq_routing_msi = struct('kvm_irq_routing_msi', {
  address_lo: u32,
  address_hi: u32,
  data: u32,
  devid: u32,
});

/** One GSI route: `u` holds the words of a struct that `type` (KVM_IRQ_ROUTING_*) chooses. */
export interface IrqRoutingEntry {
  gsi: number;
  type: number;
  flags: number;
  u: number[];
}

/** Build values with {@link irqchipRoute} and {@link msiRoute}. */
export const kvm_irq_routing_entry: Struct<IrqRoutingEntry> = struct('kvm_irq_routing_entry', {
  gsi: u32,
  type: u32,
  flags: u32,
  pad: pad(4),
  u: array(u32, 8),
});

/** KVM_SET_GSI_ROUTING: the whole table at once. */
export const kvm_irq_routing = listStruct('kvm_irq_routing', 8, kvm_irq_routing_entry);

/** A GSI that is a pin of an in-kernel interrupt controller (KVM_IRQCHIP_*). */
export function irqchipRoute(gsi: number, irqchip: number, pin: number): IrqRoutingEntry {
  return { gsi, type: KVM_IRQ_ROUTING_IRQCHIP, flags: 0, u: [irqchip, pin, 0, 0, 0, 0, 0, 0] };
}

/** A GSI that sends a message-signalled interrupt. */
export function msiRoute(gsi: number, addressLo: number, addressHi: number, data: number): IrqRoutingEntry {
  return { gsi, type: KVM_IRQ_ROUTING_MSI, flags: 0, u: [addressLo, addressHi, data, 0, 0, 0, 0, 0] };
}

/** KVM_SIGNAL_MSI. */
export const kvm_msi = struct('kvm_msi', {
  address_lo: u32,
  address_hi: u32,
  data: u32,
  flags: u32,
  devid: u32,
  pad: pad(12),
});

/** KVM_GET_DIRTY_LOG; `dirty_bitmap` is a host address of one bit a page, rounded up to 64 pages. */
export const kvm_dirty_log = struct('kvm_dirty_log', { slot: u32, padding1: pad(4), dirty_bitmap: u64 });

/** KVM_CLEAR_DIRTY_LOG; `first_page` is a multiple of 64. */
export const kvm_clear_dirty_log = struct('kvm_clear_dirty_log', {
  slot: u32,
  num_pages: u32,
  first_page: address,
  dirty_bitmap: u64,
});

/** An entry of the dirty ring. */
export const kvm_dirty_gfn = struct('kvm_dirty_gfn', { flags: u32, slot: u32, offset: address });

/** KVM_REGISTER_COALESCED_MMIO; `pio` 1 means a port range. */
export const kvm_coalesced_mmio_zone = struct('kvm_coalesced_mmio_zone', {
  addr: address,
  size: u32,
  pio: u32,
});

/** One coalesced write. */
export const kvm_coalesced_mmio = struct('kvm_coalesced_mmio', {
  phys_addr: address,
  len: u32,
  pio: u32,
  data: blob(8),
});

/** Head of the ring at page KVM_COALESCED_MMIO_PAGE_OFFSET of the vCPU mapping; entries follow. */
export const kvm_coalesced_mmio_ring = struct('kvm_coalesced_mmio_ring', { first: u32, last: u32 });

/** Number of entries of the coalesced ring for a page size in bytes (KVM_COALESCED_MMIO_MAX). */
export function coalescedMmioMax(pageSize: number): number {
  return Math.floor((pageSize - kvm_coalesced_mmio_ring.size) / kvm_coalesced_mmio.size);
}

/** `bitmap` is the host address of one bit per MSR, set to allow. */
export const kvm_msr_filter_range = struct('kvm_msr_filter_range', {
  flags: u32,
  nmsrs: u32,
  base: u32,
  bitmap: u64,
});

/** KVM_X86_SET_MSR_FILTER. */
export const kvm_msr_filter = struct('kvm_msr_filter', {
  flags: u32,
  ranges: array(kvm_msr_filter_range, KVM_MSR_FILTER_MAX_RANGES),
});

/** KVM_{GET,SET,HAS}_DEVICE_ATTR. */
export const kvm_device_attr = struct('kvm_device_attr', { flags: u32, group: u32, attr: u64, addr: u64 });
