/** Numbers of the console device (virtio 1.2 section 5.3). */

/** Feature bits, section 5.3.3. */
export const CONSOLE_F = { SIZE: 1n << 0n, MULTIPORT: 1n << 1n, EMERG_WRITE: 1n << 2n } as const;

/** Offsets in struct virtio_console_config, section 5.3.4. */
export const CONSOLE_CONFIG = { COLS: 0, ROWS: 2, MAX_NR_PORTS: 4, EMERG_WR: 8, SIZE: 12 } as const;

/** Control events, section 5.3.6.2. */
export const CONSOLE_EVENT = {
  DEVICE_READY: 0,
  DEVICE_ADD: 1,
  PORT_READY: 3,
  CONSOLE_PORT: 4,
  RESIZE: 5,
  OPEN: 6,
  NAME: 7,
} as const;

/** Bytes of struct virtio_console_control: port, event, value. */
export const CONTROL_SIZE = 8;
