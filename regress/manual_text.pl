#!/usr/bin/perl
# The PostgreSQL manual (HTML pages of the package postgresql-doc) as rows for COPY: page, section's text.
# A section is one document; its page is the group, so that sections of one page never sit on two sides of a split.
use strict;
use warnings;
use utf8;
use open qw(:std :encoding(UTF-8));

my %entity = (lt => '<', gt => '>', amp => '&', quot => '"', nbsp => ' ', apos => "'");

sub plain_text {
    my ($html) = @_;
    $html =~ s/<(script|style)\b.*?<\/\1>//gs;
    # white space counts in <pre> only
    $html = join '', map { /^<pre\b/ ? $_ : s/\s+/ /gr } split /(<pre\b.*?<\/pre>)/s, $html;
    $html =~ s/ *(?:<\/(p|li|dt|dd|tr|h\d|div|pre|table)>|<br\b[^>]*>) */\n/g;
    $html =~ s/<\/t[dh]>/\t/g;
    $html =~ s/<[^>]*>//gs;
    $html =~ s/&#x([0-9a-f]+);/chr hex $1/gie;
    $html =~ s/&#([0-9]+);/chr $1/ge;
    $html =~ s/&(\w+);/$entity{$1} \/\/ "&$1;"/ge;
    $html =~ tr/\x{a0}/ /;
    $html =~ s/[ \t]+\n/\n/g;
    $html =~ s/\n{3,}/\n\n/g;
    $html =~ s/^\s+|\s+$//g;
    return $html;
}

sub copy_escape {
    my ($text) = @_;
    $text =~ s/\\/\\\\/g;
    $text =~ s/\t/\\t/g;
    $text =~ s/\r/\\r/g;
    $text =~ s/\n/\\n/g;
    return $text;
}

for my $file (@ARGV) {
    local $/;
    open my $in, '<:encoding(UTF-8)', $file or die "$file: $!\n";
    my $html = <$in>;
    close $in;
    $html =~ s/.*?<body\b[^>]*>//s;
    $html =~ s/<div[^>]*class="nav(header|footer)".*?<\/table>//gs;
    my ($page) = $file =~ m{([^/]+)\.html$};
    for my $section (split /(?=<div[^>]*class="(?:titlepage|refsect\d|sect\d)")/, $html) {
        my $text = plain_text($section);
        print copy_escape($page), "\t", copy_escape($text), "\n" if length $text >= 200;
    }
}
