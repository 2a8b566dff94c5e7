/** What is told about the building of an image. */

/**
 * `wait`: another process is building. `update` to `pack` make the base system, `copy` and `format` the image,
 * `kernel` and `initrd` what boots it.
 */
export type ImageStep =
  | 'wait'
  | 'kernel'
  | 'update'
  | 'resolve'
  | 'download'
  | 'unpack'
  | 'install'
  | 'pack'
  | 'copy'
  | 'format'
  | 'initrd';

/** Progress of building an image. */
export interface ImageProgress {
  readonly step: ImageStep;
  /** 0 to 1 where it is known. */
  readonly fraction?: number;
}
