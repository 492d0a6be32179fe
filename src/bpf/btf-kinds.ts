/** What every reader of BTF needs to know of its format: the kinds of types and how many bytes each takes. Pure. */

export const BTF_MAGIC = 0xeb9f;
/** Bytes of the header of version 1. */
export const BTF_HEADER = 24;
/** Bytes that every type has. */
export const BTF_TYPE = 12;

export const BTF_KIND = {
  INT: 1,
  PTR: 2,
  ARRAY: 3,
  STRUCT: 4,
  UNION: 5,
  ENUM: 6,
  FWD: 7,
  TYPEDEF: 8,
  VOLATILE: 9,
  CONST: 10,
  RESTRICT: 11,
  FUNC: 12,
  FUNC_PROTO: 13,
  VAR: 14,
  DATASEC: 15,
  FLOAT: 16,
  DECL_TAG: 17,
  TYPE_TAG: 18,
  ENUM64: 19,
} as const;

/** The kind in a type's `info` word. */
export const kindOf = (info: number): number => (info >>> 24) & 0x1f;
/** The number of members, parameters or values in a type's `info` word. */
export const vlenOf = (info: number): number => info & 0xffff;

/** Bytes that follow the 12 of every type; undefined for a kind that is unknown. */
export function extraBytes(info: number): number | undefined {
  const [kind, vlen] = [kindOf(info), vlenOf(info)];
  switch (kind) {
    case BTF_KIND.INT:
    case BTF_KIND.VAR:
    case BTF_KIND.DECL_TAG:
      return 4;
    case BTF_KIND.ARRAY:
      return 12;
    case BTF_KIND.STRUCT:
    case BTF_KIND.UNION:
    case BTF_KIND.DATASEC:
    case BTF_KIND.ENUM64:
      return 12 * vlen;
    case BTF_KIND.ENUM:
    case BTF_KIND.FUNC_PROTO:
      return 8 * vlen;
    default:
      return kind >= BTF_KIND.INT && kind <= BTF_KIND.ENUM64 ? 0 : undefined;
  }
}
