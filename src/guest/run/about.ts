/** What an image tells about itself, in `NAME.json` beside `NAME.erofs`. All of it can be said on the command line too. */
import { z } from 'zod';
import { lazy } from '../../core/lazy.ts';
import type { Output } from '../../core/lazy.ts';

/** Bytes as hexadecimal digits: services do not all speak text. */
const hex = lazy(() => z.string().regex(/^([0-9a-f]{2})*$/));

export const imageAboutSchema = lazy(() =>
  z.object({
    schema: z.literal(1),
    name: z.string(),
    /** Run when no command is given. */
    command: z.array(z.string()).min(1),
    /** Enough for that command. */
    memMib: z.number().int().positive(),
    /** The port that the command opens, a request, and how a right answer begins. */
    service: z.object({ port: z.number().int().min(1).max(65_535), send: hex(), expect: hex() }).optional(),
  }),
);
export type ImageAbout = Output<typeof imageAboutSchema>;
