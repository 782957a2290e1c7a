//! Plain text: paragraphs between empty lines.

use super::{Builder, Document, Kind};

/// Reads the paragraphs of a plain text. What is indented by four columns or a tab is taken for an example.
pub(super) fn read(document: &mut Document) {
    let text = document.text;
    let mut open: Option<Builder> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let at = start;
        start += line.len();
        let content = line.trim_end();
        let indented = line.starts_with("    ") || line.starts_with('\t');
        if content.is_empty() || (indented && open.is_none()) {
            document.blocks.extend(open.take().and_then(Builder::finish));
            if !content.is_empty() {
                document.verbatim.push(at..start);
            }
            continue;
        }
        let builder = open.get_or_insert_with(|| Builder::new(Kind::Paragraph, false));
        let begin = at + (content.len() - content.trim_start().len());
        builder.space(at..begin.max(at));
        builder.push(content.trim_start(), begin..at + content.len());
    }
    document.blocks.extend(open.and_then(Builder::finish));
}
