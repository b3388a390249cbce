/*
 * Programs from the text that nvcc writes: kernels by name, and a kernel's instructions once somebody wants
 * to run it.  Registers and constants become slots, shared variables offsets, labels numbers of instructions.
 * Registers of the chip (%tid.x) are slots that launch.cpp fills.
 */
#include "ptx.h"

#include <fstream>
#include <sstream>
#include <stdlib.h>

typedef std::string str;

/* Bytes of shared memory that a variable takes, and at what they are aligned. */
struct variable {
    uint32_t align, bytes;
};
static std::map<str, struct variable> variables;
static std::map<str, std::map<str, struct kernel>> files;

[[noreturn]] static void refuse(const str &text, const char *why)
{
    struct instruction i;

    i.text = text;
    ptx_refuse(i, "%s", why);
}

static str stripped(const str &s)
{
    size_t begin = s.find_first_not_of(" \t\n"), end = s.find_last_not_of(" \t\n");

    return begin == str::npos ? "" : s.substr(begin, end - begin + 1);
}

/* ---- statements ---- */

/* The text of a file without comments. */
static str text_of(const str &file)
{
    std::ifstream in(file);
    str line, text;

    if (!in)
        refuse(file, "no PTX of this program");
    while (std::getline(in, line))
        text += line.substr(0, line.find("//")) + "\n";
    return text;
}

static str word(const str &text, size_t *at)
{
    size_t begin = text.find_first_not_of(" \t\n", *at), end;

    if (begin == str::npos)
        return "";
    end = std::min(text.find_first_of(" \t\n(;", begin), text.size());
    *at = end;
    return text.substr(begin, end - begin);
}

/* Up to and with one of `ends`; what comes before it. */
static str upto(const str &text, size_t *at, const char *ends)
{
    size_t begin = *at, end = text.find_first_of(ends, begin);

    if (end == str::npos)
        refuse(text.substr(begin, 60), "text that does not end");
    *at = end + 1;
    return stripped(text.substr(begin, end - begin));
}

/* Bytes of a type; 0: not known. */
static uint32_t type_size(const str &type)
{
    static const std::map<str, uint32_t> sizes = {{"b8", 1},  {"u8", 1},  {"s8", 1},  {"b16", 2}, {"u16", 2},
                                                  {"s16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4}, {"f32", 4},
                                                  {"b64", 8}, {"u64", 8}, {"s64", 8}, {"f64", 8}};
    auto found = sizes.find(type);

    return found == sizes.end() ? 0 : found->second;
}

/* ".shared .align 4 .b8 name[64]", ".param .u32 name" */
static str declaration(const str &text, struct variable *out)
{
    std::istringstream words(text);
    str space, next, name;
    size_t bracket;

    words >> space >> next;
    *out = {1, 0};
    if (next == ".align")
        words >> out->align >> next;
    out->bytes = type_size(next.substr(1));
    words >> name;
    if (!out->bytes || name.empty() || words >> next)
        refuse(text, "a declaration that is not known");
    out->align = std::max(out->align, out->bytes);
    bracket = name.find('[');
    if (bracket != str::npos)
        out->bytes *= (uint32_t) strtoul(name.c_str() + bracket + 1, NULL, 10);
    return name.substr(0, bracket);
}

/* ".entry name(parameters) .maxntid 128, 1, 1 { body }", from the name on */
static struct kernel read_kernel(const str &text, size_t *at)
{
    struct kernel k;
    size_t begin, depth = 1;

    k.name = word(text, at);
    upto(text, at, "(");
    std::istringstream parameters(upto(text, at, ")"));
    for (str one; std::getline(parameters, one, ',');) {
        struct variable variable;

        k.parameter_of[declaration(stripped(one), &variable)] = (int) k.parameters.size();
        k.parameters.push_back(variable.bytes);
    }
    std::istringstream directives(upto(text, at, "{"));
    for (str one; std::getline(directives, one);) {
        if (one.find(".maxntid ") != 0)
            refuse(one, "a directive that is not known");
        k.most_threads = (uint32_t) strtoul(one.c_str() + 9, NULL, 10);
    }
    for (begin = *at; depth; (*at)++) {
        if (*at == text.size())
            refuse(k.name, "a kernel that does not end");
        depth += text[*at] == '{';
        depth -= text[*at] == '}';
    }
    k.body = text.substr(begin, *at - 1 - begin);
    return k;
}

static std::map<str, struct kernel> read_file(const str &file)
{
    std::map<str, struct kernel> kernels;
    str text = text_of(file);
    size_t at = 0;

    for (str next; !(next = word(text, &at)).empty();)
        if (next == ".version" || next == ".target" || next == ".address_size")
            upto(text, &at, "\n");
        else if (next == ".shared") {
            struct variable variable;
            str name = declaration(".shared " + upto(text, &at, ";"), &variable);

            variables[name] = variable;
        } else if (next == ".entry") {
            struct kernel k = read_kernel(text, &at);

            kernels[k.name] = k;
        } else if (next != ".visible" && next != ".weak")
            refuse(next, "a directive that is not known");
    return kernels;
}

/* ---- operands ---- */

static int slot(struct kernel *k, const str &name)
{
    return k->slot_of.insert({name, (int) k->slot_of.size()}).first->second;
}

/* Where a shared variable is: the kernel's first use of it finds a place. */
static uint32_t shared_offset(struct kernel *k, const str &name, const str &text)
{
    auto found = variables.find(name);
    uint32_t at;

    if (k->shared.count(name))
        return k->shared[name];
    if (found == variables.end())
        refuse(text, "an operand that is not known");
    at = (k->shared_bytes + found->second.align - 1) / found->second.align * found->second.align;
    k->shared_bytes = at + found->second.bytes;
    return k->shared[name] = at;
}

/* One that was declared, one of the chip's that launch.cpp fills, or none: what is written there is lost. */
static bool is_register(const struct kernel &k, const str &name)
{
    static const std::set<str> of_chip = {"%tid.x",    "%ntid.x",   "%ctaid.x", "%ctaid.y",
                                          "%nctaid.x", "%nctaid.y", "_"};

    return of_chip.count(name) || k.registers.count(name.substr(0, name.find_first_of("0123456789")));
}

static int operand(struct kernel *k, const str &name, const str &text)
{
    uint64_t value;
    char *end;
    int id;

    if (is_register(*k, name))
        return slot(k, name);
    if (name[0] == '0' && (name[1] == 'f' || name[1] == 'd'))
        value = strtoull(name.c_str() + 2, &end, 16);
    else if (isdigit(name[0]) || name[0] == '-')
        value = strtoull(name.c_str(), &end, 0);
    else
        value = shared_offset(k, name, text), end = (char *) "";
    if (*end)
        refuse(text, "an operand that is not known");
    id = slot(k, name);
    k->constants[id] = value;
    return id;
}

/* Cut at commas (and bars) outside of braces and brackets. */
static std::vector<str> split(const str &s)
{
    std::vector<str> out;
    int depth = 0;
    str one;

    for (char c : s + ",") {
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        if ((c == ',' || c == '|') && !depth) {
            out.push_back(stripped(one));
            one = "";
        } else
            one += c;
    }
    return s.empty() ? std::vector<str>() : out;
}

static str inner(const str &s)
{
    return s.substr(1, s.size() - 2);
}

static void add_address(struct kernel *k, struct instruction *i, const str &text)
{
    struct address *at = &i->at[i->n_at++];
    size_t plus = text.find('+');
    str name = stripped(text.substr(0, plus));
    auto parameter = k->parameter_of.find(name);

    if (plus != str::npos) {
        char *end;

        at->offset = strtoll(text.c_str() + plus + 1, &end, 0);
        if (*end)
            refuse(i->text, "an address that is not known");
    }
    if (parameter != k->parameter_of.end())
        at->parameter = parameter->second;
    else
        at->slot = operand(k, name, i->text);
}

/* One operand of the text: an address, or a register, or several in braces; the first n_out are written. */
static void add_operand(struct kernel *k, struct instruction *i, const str &text, int n_out)
{
    if (text[0] == '[' && i->n_at < 2)
        add_address(k, i, inner(text));
    else if (text[0] == '{')
        for (const str &one : split(inner(text)))
            add_operand(k, i, one, n_out);
    else if (i->n_out < n_out)
        i->out[i->n_out++] = operand(k, text, i->text);
    else if (i->n_in < 10 && text != "_")
        i->in[i->n_in++] = operand(k, text, i->text);
    else
        refuse(i->text, "an operand that is not known");
}

/* ---- instructions ---- */

/* "ld.global.nc.v2.f32" is ld.global with two elements of 4 bytes; its registers are checked against that. */
static str memory_opcode(struct instruction *i, const str &opcode, int *vector)
{
    size_t dot = opcode.rfind('.');
    str type = opcode.substr(dot + 1), rest = opcode.substr(0, dot);

    *vector = 1;
    if (rest.size() > 3 && (rest.substr(rest.size() - 3) == ".v2" || rest.substr(rest.size() - 3) == ".v4")) {
        *vector = rest.back() - '0';
        rest.resize(rest.size() - 3);
    }
    i->size = type_size(type);
    i->is_signed = type[0] == 's';
    if (!i->size)
        refuse(i->text, "a type that is not known");
    return rest == "ld.global.nc" ? "ld.global" : rest;
}

/* An instruction with registers and addresses. */
static void decode_operation(struct kernel *k, struct instruction *i, const str &opcode,
                             const std::vector<str> &operands)
{
    bool loads = opcode.compare(0, 3, "ld.") == 0, stores = opcode.compare(0, 3, "st.") == 0;
    bool packs = opcode.compare(0, 4, "mov.") == 0 && operands.size() == 2 && operands[1][0] == '{';
    bool unpacks = opcode.compare(0, 4, "mov.") == 0 && operands.size() == 2 && operands[0][0] == '{';
    int vector = 0, n_out, n_in;
    const struct operation *operation;
    str name = opcode;

    if (loads || stores)
        name = memory_opcode(i, opcode, &vector);
    if (packs || unpacks) {
        i->size = type_size(opcode.substr(4));
        name = packs ? "pack" : "unpack";
        vector = (int) split(inner(operands[packs])).size();
    }
    operation = ptx_operation(name);
    if (!operation || ((packs || unpacks) && !i->size))
        refuse(i->text, "an instruction that is not known");
    n_out = loads || unpacks ? vector : packs ? 1 : operation->n_out;
    n_in = stores || packs ? vector : unpacks ? 1 : operation->n_in;
    for (const str &one : operands)
        add_operand(k, i, one, n_out);
    if (i->n_out != n_out || i->n_in != n_in || (name == "ld.param") != (i->at[0].parameter >= 0))
        refuse(i->text, "operands that are not known");
    if (i->at[0].parameter >= 0 &&
        (uint64_t) i->at[0].offset + i->size * (uint32_t) n_out > k->parameters[i->at[0].parameter])
        refuse(i->text, "beyond the parameter");
    i->run = operation->run;
}

static void decode_instruction(struct kernel *k, const str &statement,
                               std::vector<std::pair<size_t, str>> *branches)
{
    struct instruction i;
    size_t at = 0;
    str opcode = word(statement, &at);

    i.text = statement;
    if (opcode[0] == '@') {
        i.negated = opcode[1] == '!';
        i.guard = operand(k, opcode.substr(i.negated ? 2 : 1), statement);
        opcode = word(statement, &at);
    }
    std::vector<str> operands = split(stripped(statement.substr(at)));
    if (opcode == "ret" && operands.empty())
        i.flow = RETURN;
    else if (opcode == "bar.sync" && operands == std::vector<str>{"0"})
        i.flow = BARRIER;
    else if ((opcode == "bra" || opcode == "bra.uni") && operands.size() == 1) {
        i.flow = BRANCH;
        branches->push_back({k->code.size(), operands[0]});
    } else
        decode_operation(k, &i, opcode, operands);
    k->code.push_back(i);
}

/* Its body, statement by statement; braces between statements are scopes. */
static void decode(struct kernel *k)
{
    std::map<str, uint32_t> labels;
    std::vector<std::pair<size_t, str>> branches;
    struct variable variable;
    size_t at = 0;

    while ((at = k->body.find_first_not_of(" \t\n{}", at)) != str::npos) {
        str statement = upto(k->body, &at, ";:");

        if (k->body[at - 1] == ':')
            labels[statement] = (uint32_t) k->code.size();
        else if (statement.compare(0, 8, ".shared ") == 0) {
            str name = declaration(statement, &variable);

            variables[name] = variable;
        } else if (statement.compare(0, 5, ".reg ") == 0)
            k->registers.insert(
                stripped(statement.substr(statement.find('%'), statement.find('<') - statement.find('%'))));
        else if (statement != ".pragma \"nounroll\"")
            decode_instruction(k, statement, &branches);
    }
    decode_instruction(k, "ret", &branches);
    for (const auto &[number, label] : branches) {
        if (!labels.count(label))
            refuse(k->code[number].text, "a label that is not known");
        k->code[number].target = labels[label];
    }
}

const struct kernel &ptx_kernel(const str &file, const str &name)
{
    if (!files.count(file))
        files[file] = read_file(file);

    auto found = files[file].find(name);
    if (found == files[file].end())
        refuse(name, "no kernel of this name");
    if (found->second.code.empty())
        decode(&found->second);
    return found->second;
}
