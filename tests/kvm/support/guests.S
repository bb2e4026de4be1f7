/* The guests: code of a few instructions, position-independent, copied into guest memory by
   TestGuest. Entered in long mode with the first 6 GiB mapped onto themselves; at CPL 0 unless a
   comment says otherwise. Ring 0 is interpreted on some hosts (about 1 us an instruction, and many
   instructions fail), so those parts are plain moves and branches. */

    .section .rodata.guests, "a", @progbits
    .code64

#define GUEST(name) .global guest_##name; .global guest_##name##_end; .balign 16; guest_##name:
#define END(name) guest_##name##_end:

#define DONE_PORT 0xe9
#define MMIO 0xd0000000

/* Each width of port output and input; what was read goes to 0x8000. */
GUEST(port_io)
    mov $0x11, %al
    out %al, $0x10
    mov $0x1234, %dx
    mov $0x2222, %ax
    out %ax, %dx
    mov $0x33333333, %eax
    out %eax, %dx
    xor %eax, %eax
    in $0x10, %al
    mov %eax, 0x8000
    xor %eax, %eax
    in %dx, %ax
    mov %eax, 0x8004
    in %dx, %eax
    mov %eax, 0x8008
    out %al, $DONE_PORT
    hlt
END(port_io)

/* Three bytes by one string instruction, from 0x8000. */
GUEST(string_output)
    mov $0x8000, %esi
    mov $3, %ecx
    mov $0x10, %edx
    rep outsb
    out %al, $DONE_PORT
    hlt
END(string_output)

/* Each width of MMIO write and read; what was read goes to 0x8000. */
GUEST(mmio)
    mov $MMIO, %ebx
    movb $0x11, (%rbx)
    movw $0x2222, 2(%rbx)
    movl $0x33333333, 4(%rbx)
    mov $0x4444444455555555, %rax
    mov %rax, 8(%rbx)
    mov 0x10(%rbx), %al
    mov %al, 0x8000
    mov 0x12(%rbx), %ax
    mov %ax, 0x8008
    mov 0x14(%rbx), %eax
    mov %eax, 0x8010
    mov 0x18(%rbx), %rax
    mov %rax, 0x8018
    out %al, $DONE_PORT
    hlt
END(mmio)

/* Reads what the host wrote at 4 GiB + 0x1000 and writes it at 5 GiB - 8. */
GUEST(high_memory)
    mov $0x100001000, %rbx
    mov (%rbx), %rax
    mov $0x13ffffff8, %rbx
    mov %rax, (%rbx)
    out %al, $DONE_PORT
    hlt
END(high_memory)

GUEST(halt)
    hlt
    jmp guest_halt
END(halt)

/* An exception with no table of handlers. */
GUEST(triple_fault)
    ud2
END(triple_fault)

/* No emulator of KVM's knows this instruction with an operand in MMIO: crc32b (MMIO), %eax */
GUEST(not_emulated)
    mov $MMIO, %ebx
    crc32b (%rbx), %eax
    hlt
END(not_emulated)

/* Switches its local APIC on, says so, and polls the interrupt request register for vector 0x41:
   bit 1 of the word at 0x220 (SDM 3A, "Interrupt Acceptance for Fixed Interrupts"). */
GUEST(msi)
    mov $0xfee00000, %ebx
    movl $0x1ff, 0xf0(%rbx)
    out %al, $0x10
1:  mov 0x220(%rbx), %eax
    and $2, %eax
    jz 1b
    out %al, $DONE_PORT
    hlt
END(msi)

/* A doorbell at MMIO, written with 2 and with 4 bytes; its neighbour is none. */
GUEST(doorbell)
    mov $MMIO, %ebx
    movw $7, (%rbx)
    movl $7, (%rbx)
    movl $8, 16(%rbx)
    out %al, $DONE_PORT
    hlt
END(doorbell)

/* At CPL 3 with IOPL 3, at full speed everywhere: counts in rbx, telling port 0x10 each 64th. */
GUEST(count)
    inc %rbx
    test $63, %bl
    jnz guest_count
    mov %ebx, %eax
    out %eax, $0x10
    jmp guest_count
END(count)

/* The same, each count by MMIO. */
GUEST(count_mmio)
    mov $MMIO, %ebp
1:  inc %rbx
    mov %rbx, (%rbp)
    mov 8(%rbp), %rcx
    cmp %rbx, %rcx
    je 1b
    out %al, $DONE_PORT
    jmp 1b
END(count_mmio)

/* At CPL 3 with IOPL 3: fills registers, vector registers among them, and says so for ever. */
GUEST(fill)
    mov $0x1111111111111111, %rcx
    mov $0x2222222222222222, %r15
    movq %rcx, %xmm0
    movq %r15, %xmm15
    fld1
1:  out %al, $DONE_PORT
    jmp 1b
END(fill)

/* Sets XCR0 to the word at 0x8000; what leaf 0xD and XGETBV then say goes to 0x8008 and 0x8010,
   before it (XGETBV) to 0x8018. */
GUEST(xsave_size)
    xor %ecx, %ecx
    xgetbv
    mov %eax, 0x8018
    xor %edx, %edx
    mov 0x8000, %eax
    xsetbv
    mov $0xd, %eax
    xor %ecx, %ecx
    cpuid
    mov %ebx, 0x8008
    xor %ecx, %ecx
    xgetbv
    mov %eax, 0x8010
    out %al, $DONE_PORT
    hlt
END(xsave_size)

    .section .note.GNU-stack, "", @progbits
