/** Selector keys and constants of the fw_cfg interface, named as QEMU's docs/specs/fw_cfg and Linux's header do. */

/** "QEMU". */
export const FW_CFG_SIGNATURE = 0x00;
/** Feature bits, 32 bits. */
export const FW_CFG_ID = 0x01;
export const FW_CFG_UUID = 0x02;
/** Bytes of RAM, 64 bits. */
export const FW_CFG_RAM_SIZE = 0x03;
export const FW_CFG_NOGRAPHIC = 0x04;
/** CPUs, 16 bits. */
export const FW_CFG_NB_CPUS = 0x05;
export const FW_CFG_KERNEL_ADDR = 0x07;
/** Size of the protected-mode part of a kernel, 32 bits. */
export const FW_CFG_KERNEL_SIZE = 0x08;
export const FW_CFG_INITRD_ADDR = 0x0a;
export const FW_CFG_INITRD_SIZE = 0x0b;
export const FW_CFG_BOOT_MENU = 0x0e;
/** CPUs that can be plugged in, 16 bits. */
export const FW_CFG_MAX_CPUS = 0x0f;
export const FW_CFG_KERNEL_ENTRY = 0x10;
export const FW_CFG_KERNEL_DATA = 0x11;
export const FW_CFG_INITRD_DATA = 0x12;
export const FW_CFG_CMDLINE_ADDR = 0x13;
/** Size of the command line with its NUL, 32 bits. */
export const FW_CFG_CMDLINE_SIZE = 0x14;
export const FW_CFG_CMDLINE_DATA = 0x15;
export const FW_CFG_SETUP_ADDR = 0x16;
export const FW_CFG_SETUP_SIZE = 0x17;
/** The real-mode part of a kernel. */
export const FW_CFG_SETUP_DATA = 0x18;
export const FW_CFG_FILE_DIR = 0x19;
/** Files have the keys from here on. */
export const FW_CFG_FILE_FIRST = 0x20;

/** Selects an item for writing; no item here can be written. */
export const FW_CFG_WRITE_CHANNEL = 0x4000;
/** Items that mean something on x86 only. */
export const FW_CFG_ARCH_LOCAL = 0x8000;

/** FW_CFG_ID: the selector and data registers are there. */
export const FW_CFG_VERSION = 0x01;
/** FW_CFG_ID: the DMA interface is there. */
export const FW_CFG_VERSION_DMA = 0x02;

/** Length of a file name with its NUL. */
export const FW_CFG_MAX_FILE_PATH = 56;

/** Bits of the DMA control field; with SELECT bits 16-31 are the key. */
export const FW_CFG_DMA_CTL_ERROR = 0x01;
export const FW_CFG_DMA_CTL_READ = 0x02;
export const FW_CFG_DMA_CTL_SKIP = 0x04;
export const FW_CFG_DMA_CTL_SELECT = 0x08;
export const FW_CFG_DMA_CTL_WRITE = 0x10;

/** What the DMA address register reads as. */
export const FW_CFG_DMA_SIGNATURE = 'QEMU CFG';
