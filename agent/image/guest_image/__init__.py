"""Makes Spore's guest (kernel, initramfs, root file system) from Debian's packages."""
