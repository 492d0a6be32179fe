/** The little of <linux/kvm.h> that is used here. */
import { io } from './ioctl.ts';

const KVMIO = 0xae;
/** Its argument, the kind of machine, is a number: 0. */
export const KVM_CREATE_VM = io('KVM_CREATE_VM', KVMIO, 0x01);
