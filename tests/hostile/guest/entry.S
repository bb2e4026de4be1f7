/* From the PVH entry (32-bit, no paging, CPL 0) to 64-bit code at CPL 3 with the first 4 GiB mapped
   onto themselves and every port open. Some hosts interpret ring 0, at about 1 us an instruction and
   without iret; so this is short, and leaves by sysexit. Interrupts stay off: there is no IDT, and
   what a device signals waits in the LAPIC for ever. */

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18 /* name, description, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long guest_entry

/* Accessed and dirty already: a CPU that has to set these in a clone, whose pages are still its
   snapshot's, gets a page fault in QEMU's emulated SVM, where a real one tells KVM. */
#define USER_WRITABLE_PRESENT 0x67
#define LARGE 0x80
#define MSR_SYSENTER_CS 0x174
#define MSR_EFER 0xC0000080
#define EFER_LME 0x100
/* sysexit with REX.W takes CS and SS from 32 and 40 above MSR_SYSENTER_CS */
#define SYSENTER_CS 8
/* Above the program, where no one else is, nor a header that a device wrote into a table of
   descriptors points (a vsock response has 0x20001 for an address). Its bitmap of ports is all
   zeros, the byte behind it too, which a double word at port 0xFFFD asks for as well: every port
   is open; and by IOPL 3, since each of the two is not enough somewhere: kvm-pvm
   forgets IOPL on the way to ring 3, and QEMU's TCG takes no TSS that is busy, as KVM gives a
   clone its own. */
#define IOPL_3 0x3002
#define TSS_ADDRESS 0x180000
#define TSS 0x38
#define TSS_BYTES 104

    .section .text.entry, "ax"
    .code32
    .global guest_entry
guest_entry:
    mov $directories, %edi
    mov $(USER_WRITABLE_PRESENT | LARGE), %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    dec %ecx
    jnz 1b
    mov $directories + USER_WRITABLE_PRESENT, %eax
    mov %eax, pointers
    add $4096, %eax
    mov %eax, pointers + 8
    add $4096, %eax
    mov %eax, pointers + 16
    add $4096, %eax
    mov %eax, pointers + 24
    mov $pointers + USER_WRITABLE_PRESENT, %eax
    mov %eax, pml4
    movw $TSS_BYTES, TSS_ADDRESS + 102
    mov $0x20, %eax /* PAE */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $MSR_SYSENTER_CS, %ecx
    mov $SYSENTER_CS, %eax
    xor %edx, %edx
    wrmsr
    mov $MSR_EFER, %ecx
    mov $EFER_LME, %eax
    wrmsr
    mov $0x80000033, %eax /* PG, NE, ET, MP, PE */
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode

    .code64
long_mode:
    mov $TSS, %eax
    ltr %ax
    mov $stack_end, %esp
    push $IOPL_3
    popfq
    mov $attack, %edx
    mov $stack_end - 8, %ecx
    .byte 0x48, 0x0f, 0x35 /* sysexitq: to rdx, with the stack at rcx */

    .section .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF /* 0x08: code, ring 0 */
    .quad 0x00CF93000000FFFF /* 0x10: data, ring 0 */
    .quad 0, 0
    .quad 0x00AFFB000000FFFF /* 0x28: code, ring 3 */
    .quad 0x00CFF3000000FFFF /* 0x30: data, ring 3 */
    .word TSS_BYTES + 8192, TSS_ADDRESS & 0xFFFF /* 0x38: TSS, 16 bytes */
    .byte TSS_ADDRESS >> 16, 0x89, 0, 0
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt

    .section .bss
    .balign 4096
pml4: .skip 4096
pointers: .skip 4096
directories: .skip 4 * 4096
    .skip 16384
stack_end:
    .section .note.GNU-stack, "", @progbits
