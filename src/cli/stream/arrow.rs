//! Slices as one stream of Arrow IPC, which no reader takes for whole before its end.

use std::io::{self, Write};

use arrow::error::ArrowError;
use arrow::ipc::convert::metadata_to_fb;
use arrow::ipc::writer::{EncodedData, IpcWriteOptions, StreamWriter, write_message};
use arrow::ipc::{
    Buffer, FieldNode, MessageBuilder, MessageHeader, MetadataVersion, RecordBatchBuilder,
};
use arrow::record_batch::RecordBatch;
use flatbuffers::FlatBufferBuilder;

use crate::cdr::columns::{COLUMNS, file_schema};
use crate::ops::stream::{StreamRequest, StreamedSlice};

/// Key of the [`StreamRequest`] in the metadata of the schema.
const REQUEST_KEY: &str = "cdrlake.stream";
/// Key of the [`StreamedSlice`] in the metadata of a slice's last message.
const SLICE_KEY: &str = "cdrlake.slice";

/// What every message begins with, and the end of a stream as well.
const MARKER: [u8; 4] = [0xff; 4];

/// Writes a stream of Arrow IPC.
pub(super) struct ArrowOutput<W: Write> {
    writer: StreamWriter<Unbroken<W>>,
}

impl<W: Write> ArrowOutput<W> {
    /// Begins the stream with its schema.
    pub(super) fn begin(output: W, request: &StreamRequest) -> Result<Self, ArrowError> {
        let request = serde_json::to_string(request).expect("our own types always serialise");
        let schema = file_schema().with_metadata([(REQUEST_KEY, request)]);
        let mut writer = StreamWriter::try_new(Unbroken::new(output), &schema)?;
        writer.get_mut().end_message()?;
        Ok(Self { writer })
    }

    /// Writes rows.
    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.writer.write(batch)?;
        Ok(self.writer.get_mut().end_message()?)
    }

    /// Ends a slice with a batch without rows, whose message holds the counts.
    pub(super) fn end_slice(&mut self, slice: &StreamedSlice) -> Result<(), ArrowError> {
        let slice = serde_json::to_string(slice).expect("our own types always serialise");
        let output = self.writer.get_mut();
        let message = EncodedData {
            ipc_message: empty_batch(SLICE_KEY, &slice),
            arrow_data: Vec::new(),
        };
        write_message(&mut *output, message, &IpcWriteOptions::default())?;
        Ok(output.end_message()?)
    }

    /// Ends the stream. Only now is it whole.
    pub(super) fn finish(mut self) -> Result<(), ArrowError> {
        self.writer.finish()?;
        Ok(self.writer.get_mut().finish()?)
    }
}

/// The message of a batch without rows, with metadata of its own, which `arrow` does not write.
fn empty_batch(key: &str, value: &str) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let metadata = metadata_to_fb(&mut builder, &[(key, value)].into());
    let nodes = vec![FieldNode::new(0, 0); COLUMNS.len()];
    let nodes = builder.create_vector(&nodes);
    // Validity and values, and the offsets of texts.
    let buffers = COLUMNS.iter().map(|column| {
        let has_offsets = column.kind.file_type() == arrow::datatypes::DataType::Utf8;
        if has_offsets { 3 } else { 2 }
    });
    let buffers = vec![Buffer::new(0, 0); buffers.sum()];
    let buffers = builder.create_vector(&buffers);
    let mut batch = RecordBatchBuilder::new(&mut builder);
    batch.add_length(0);
    batch.add_nodes(nodes);
    batch.add_buffers(buffers);
    let batch = batch.finish().as_union_value();
    let mut message = MessageBuilder::new(&mut builder);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::RecordBatch);
    message.add_header(batch);
    message.add_bodyLength(0);
    message.add_custom_metadata(metadata);
    let message = message.finish();
    builder.finish(message, None);
    builder.finished_data().to_vec()
}

/// Bytes that are held back: what is written at once when a message ends. A pipe takes it whole or
/// not at all, as POSIX requires up to 512 bytes.
const HELD_BYTES: usize = 8;
/// Smaller pieces of a message are written together.
const PIECE_BYTES: usize = 64 << 10;

/// Passes messages on so that the output never ends behind one.
///
/// Readers take a stream that ends behind a message for a whole one, with or without the mark of
/// its end, and so would not notice that the writer was killed. Therefore the last bytes of a
/// message and the first four bytes of the next, which are known, are written at once: wherever the
/// output ends too early, it ends within a message.
struct Unbroken<W> {
    output: W,
    /// What is still to be written.
    held: Vec<u8>,
    /// Bytes of the current message that were written in advance, and are not to be written again.
    in_advance: usize,
}

impl<W: Write> Unbroken<W> {
    fn new(output: W) -> Self {
        Self {
            output,
            held: Vec::with_capacity(PIECE_BYTES),
            in_advance: 0,
        }
    }

    /// Writes all of what is held but the last bytes.
    fn pass_on(&mut self) -> io::Result<()> {
        let end = self.held.len().saturating_sub(HELD_BYTES);
        self.output.write_all(&self.held[..end])?;
        self.held.drain(..end);
        Ok(())
    }

    /// Ends a message, and begins the next.
    fn end_message(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.held.extend(MARKER);
        self.in_advance = MARKER.len();
        self.output.write_all(&self.held)?;
        self.held.clear();
        Ok(())
    }

    /// Writes the rest, after which no message follows.
    fn finish(&mut self) -> io::Result<()> {
        self.output.write_all(&self.held)?;
        self.held.clear();
        self.output.flush()
    }
}

impl<W: Write> Write for Unbroken<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.in_advance.min(bytes.len());
        self.in_advance -= written;
        let (again, new) = bytes.split_at(written);
        assert!(MARKER.starts_with(again), "every message begins with it");
        if self.held.len() + new.len() > PIECE_BYTES {
            self.pass_on()?;
        }
        match new.len().checked_sub(HELD_BYTES) {
            Some(end) if end > PIECE_BYTES => {
                self.output.write_all(&self.held)?;
                self.output.write_all(&new[..end])?;
                self.held.clear();
                self.held.extend(&new[end..]);
            }
            _ => self.held.extend(new),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Only whole messages are of use to a reader.
        Ok(())
    }
}

#[cfg(test)]
mod tests;
