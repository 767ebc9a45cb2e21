"""Every limit of the server. Above one a request is refused with the reason; nothing here grows without an end."""

MIB = 1024 * 1024

# Longest body of a request in bytes: code, and the variables that come with it
REQUEST_BYTES_MAX = 8 * MIB
# A kernel with pandas loaded holds some 150 MiB, so a sandbox of a gigabyte does not hold more
CONTEXTS_MAX = 8
# Executions that wait for their turn in one context
WAITING_MAX = 64
# What one execution may have printed that its reader has not taken yet, in bytes. Above it the execution is interrupted: the kernel's sockets would drop what follows.
UNREAD_BYTES_MAX = 64 * MIB

# Emulated machines start a kernel in half a minute
KERNEL_START_SECONDS = 180
# Between looks whether a kernel that says nothing still lives
KERNEL_ALIVE_SECONDS = 1
# What an interrupted kernel gets to come back before it is replaced
INTERRUPT_SECONDS = 10
