/** Whether the kernel takes a name for a network device: as its dev_valid_name() has it, which counts bytes; and no %, which stands for a number there. */
export function isIfname(text: string): boolean {
  return /^[^\s/:%]+$/.test(text) && Buffer.byteLength(text) <= 15 && text !== '.' && text !== '..';
}
