"""Image files in and out: decoded without trust, by rows where they are large, written whole or not at all.

Four words, each with one meaning: a **page** is one image of a file; **rows** [start, stop) are counted from the top of
that image as it is seen, upright; a **source** gives rows of a page, a **sink** takes rows of an output. Who calls
whom:

    find    listing                                                    which files of a folder are images
    whole   reading → decoding → pictures, or tiffs for deep TIFFs     read_image(path, config) → an array
    by rows pages → row_readers → tiffs, or decoding for other formats open_pages(path, config) → sources
    apart   decoder_process → decoding, row_readers                    the same in a process that a file may crash
    write   writing (whole files), sinks → tiffs (rows)                write_image(…), writing_pages(…) → sinks

How is a TIFF read by rows? `pages.open_pages` asks `row_readers.open_file` for the file's pages; one that lies upright
has a `tiffs.TiffRowReader`, whose `read(start, stop)` decodes only the strips or tiles that these rows touch. One that
lies on its side, or is compressed in a way that only Pillow knows, is decoded whole first.

`tensors`, `pages`, `resized` and `sinks` make tensors of arrays and back. The other files know nothing of torch, so
that a process that only decodes is ready in a fraction of a second.
"""
