// SPDX-License-Identifier: GPL-2.0
/*
 * Exports an mmapable BPF array as a character device, so that a stock QEMU can take it as the memory of an
 * ivshmem-plain device. The device node lives as long as the file that CREATE returned; the map lives as
 * long as anybody has the device open or mapped.
 */
#include <linux/anon_inodes.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include "host.h"

#define HT_ARENAS 1024

struct ht_arena {
	struct list_head node;	/* from CREATE until the device is released */
	struct device dev;
	atomic_t opens;		/* open or mapped files of the device */
	struct cdev cdev;
	struct bpf_map *map;
	u64 bytes;
	int minor;
};

static dev_t ht_arena_devt;
static struct class *ht_arena_class;
static DEFINE_IDA(ht_arena_ida);
static LIST_HEAD(ht_arenas);
static DEFINE_MUTEX(ht_arenas_lock);	/* ht_arenas. Taken last */

static void ht_arena_dev_release(struct device *dev)
{
	struct ht_arena *arena = container_of(dev, struct ht_arena, dev);

	mutex_lock(&ht_arenas_lock);
	list_del(&arena->node);
	mutex_unlock(&ht_arenas_lock);
	bpf_map_put(arena->map);
	ida_free(&ht_arena_ida, arena->minor);
	kfree(arena);
}

/* Whether anybody has the map as a device, as the QEMU of a VM does that it is plugged into. */
bool ht_arena_in_use(const struct bpf_map *map)
{
	struct ht_arena *arena;
	bool used = false;

	mutex_lock(&ht_arenas_lock);
	list_for_each_entry(arena, &ht_arenas, node)
		used |= arena->map == map && atomic_read(&arena->opens);
	mutex_unlock(&ht_arenas_lock);
	return used;
}

static int ht_arena_open(struct inode *inode, struct file *file)
{
	struct ht_arena *arena = container_of(inode->i_cdev, struct ht_arena, cdev);

	get_device(&arena->dev);
	atomic_inc(&arena->opens);
	file->private_data = arena;
	return 0;
}

static int ht_arena_close(struct inode *inode, struct file *file)
{
	struct ht_arena *arena = file->private_data;

	atomic_dec(&arena->opens);
	put_device(&arena->dev);
	return 0;
}

/* QEMU asks for the size by seeking to the end */
static loff_t ht_arena_llseek(struct file *file, loff_t off, int whence)
{
	struct ht_arena *arena = file->private_data;

	return fixed_size_llseek(file, off, whence, arena->bytes);
}

/*
 * Where arrays do not fill a mapping as it is made but page by page (map_mmap_fault), the kernel's own fault handler takes the
 * map from a map's file, which ours is not. Under mmap_lock or the vma's lock; may sleep. map_mmap looks at the size once, and
 * mremap may have made the vma longer since: so we bound vmf->pgoff. The page is the array's own, which the map has until it
 * is freed: after the last vma.
 */
#ifdef HT_HAS_MAP_MMAP_FAULT
static vm_fault_t ht_arena_fault(struct vm_fault *vmf)
{
	struct ht_arena *arena = vmf->vma->vm_file->private_data;

	if (vmf->pgoff >= arena->bytes >> PAGE_SHIFT)
		return VM_FAULT_SIGBUS;
	return arena->map->ops->map_mmap_fault(arena->map, vmf);
}

static const struct vm_operations_struct ht_arena_vm_ops = { .fault = ht_arena_fault };
#endif

static int ht_arena_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct ht_arena *arena = file->private_data;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
#ifdef HT_HAS_MAP_MMAP_FAULT
	if (arena->map->ops->map_mmap_fault)
		vma->vm_ops = &ht_arena_vm_ops;
#endif
	/* the vma's reference on the file holds the device, which holds the map */
	return arena->map->ops->map_mmap(arena->map, vma);
}

static const struct file_operations ht_arena_fops = {
	.owner = THIS_MODULE,
	.open = ht_arena_open,
	.release = ht_arena_close,
	.llseek = ht_arena_llseek,
	.mmap = ht_arena_mmap,
};

static int ht_arena_owner_release(struct inode *inode, struct file *file)
{
	struct ht_arena *arena = file->private_data;

	cdev_device_del(&arena->cdev, &arena->dev);
	put_device(&arena->dev);
	return 0;
}

static const struct file_operations ht_arena_owner_fops = {
	.owner = THIS_MODULE,
	.release = ht_arena_owner_release,
	.llseek = noop_llseek,
};

static bool ht_arena_map_ok(const struct bpf_map *map)
{
	return map->map_type == BPF_MAP_TYPE_ARRAY && (map->map_flags & BPF_F_MMAPABLE) &&
	       !(map->map_flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)) && !map->frozen &&
	       map->max_entries == 1 && PAGE_ALIGNED(map->value_size) &&
	       map->value_size >= HT_ARENA_MIN_BYTES && map->value_size <= HT_ARENA_MAX_BYTES &&
	       is_power_of_2(map->value_size); /* it becomes a PCI BAR */
}

/* Returns a file descriptor that owns the device, or an error. */
int ht_arena_create(struct ht_arena_create *req)
{
	struct ht_arena *arena;
	struct file *file;
	int fd, ret;

	if (req->flags)
		return -EINVAL;
	arena = kzalloc(sizeof(*arena), GFP_KERNEL);
	if (!arena)
		return -ENOMEM;
	arena->map = bpf_map_get(req->map_fd);
	if (IS_ERR(arena->map)) {
		ret = PTR_ERR(arena->map);
		goto free;
	}
	ret = -EINVAL;
	if (!ht_arena_map_ok(arena->map))
		goto put_map;
	arena->bytes = arena->map->value_size;
	ret = arena->minor = ida_alloc_max(&ht_arena_ida, HT_ARENAS - 1, GFP_KERNEL);
	if (ret < 0)
		goto put_map;

	mutex_lock(&ht_arenas_lock);
	list_add(&arena->node, &ht_arenas);
	mutex_unlock(&ht_arenas_lock);
	device_initialize(&arena->dev);	/* from here ht_arena_dev_release frees all */
	arena->dev.class = ht_arena_class;
	arena->dev.devt = MKDEV(MAJOR(ht_arena_devt), arena->minor);
	arena->dev.release = ht_arena_dev_release;
	ret = dev_set_name(&arena->dev, "hyperturtle-arena%d", arena->minor);
	if (ret)
		goto put_dev;
	cdev_init(&arena->cdev, &ht_arena_fops);
	arena->cdev.owner = THIS_MODULE;
	ret = cdev_device_add(&arena->cdev, &arena->dev);
	if (ret)
		goto put_dev;
	file = anon_inode_getfile("hyperturtle-arena", &ht_arena_owner_fops, arena, O_RDWR);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
		goto del_dev;
	}
	/* from here the file owns the device */
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		fput(file);
		return fd;
	}
	req->bytes = arena->bytes;
	strscpy(req->name, dev_name(&arena->dev), sizeof(req->name));
	fd_install(fd, file);
	return fd;

del_dev:
	cdev_device_del(&arena->cdev, &arena->dev);
put_dev:
	put_device(&arena->dev);
	return ret;
put_map:
	bpf_map_put(arena->map);
free:
	kfree(arena);
	return ret;
}

int ht_arena_init(void)
{
	int ret = alloc_chrdev_region(&ht_arena_devt, 0, HT_ARENAS, "hyperturtle-arena");

	if (ret)
		return ret;
	ht_arena_class = ht_class_create("hyperturtle");
	if (IS_ERR(ht_arena_class)) {
		unregister_chrdev_region(ht_arena_devt, HT_ARENAS);
		return PTR_ERR(ht_arena_class);
	}
	return 0;
}

void ht_arena_exit(void)
{
	class_destroy(ht_arena_class);
	unregister_chrdev_region(ht_arena_devt, HT_ARENAS);
	ida_destroy(&ht_arena_ida);
}
