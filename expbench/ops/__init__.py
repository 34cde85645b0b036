"""Operations: one a file, each fast path beside its plain reference."""
