"""All compiled code of the library. Kernels know arrays only; nothing here raises or checks input."""
